"""Server reflection that shows comments.

Python's own reflection serves the descriptors that generated code carries, and those have no comments. This one serves
the image written when the protos were compiled, source information included, so that tools can show what every RPC and
field means. A listener that does not serve every method describes those alone that it serves.
The versions v1 and v1alpha of the protocol have the same messages under two names.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, json_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import Default
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2 as pb

from services.common.errors import CoxswainError
from services.common.grpc.capacity import reflection_streams
from services.common.grpc.decoding import parse
from services.common.grpc.health import abort
from services.common.grpc.request_reading import RequestReader

IMAGE_FILE = Path(__file__).resolve().parents[3] / "gen" / "image.binpb"
_SERVICE_NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_HEALTH = "grpc.health.v1.Health"
_PRODUCT = "coxswain."
# Numbers of fields, of which the paths of source locations are made.
_SERVICE = descriptor_pb2.FileDescriptorProto.SERVICE_FIELD_NUMBER
_METHOD = descriptor_pb2.ServiceDescriptorProto.METHOD_FIELD_NUMBER


class DescriptorImage:
    """All descriptors of the product, by file and by symbol."""

    def __init__(self, files: Iterable[descriptor_pb2.FileDescriptorProto]) -> None:
        self._files = {file.name: file for file in files}
        self._file_of: dict[str, str] = {}
        self._extensions: dict[str, dict[int, str]] = {}
        for file in self._files.values():
            for symbol in _symbols(file):
                self._file_of[symbol] = file.name
            for extension in file.extension:
                self._extensions.setdefault(extension.extendee.lstrip("."), {})[extension.number] = file.name

    def serving(self, methods: Mapping[str, Collection[str]]) -> "DescriptorImage":
        """Return an image whose services of the product are those named, with these of their methods alone."""
        return DescriptorImage(_pruned(file, methods) for file in self._files.values())

    def file(self, name: str) -> list[bytes] | None:
        """Return a file and all it imports, serialized, or None."""
        if name not in self._files:
            return None
        found: dict[str, bytes] = {}
        pending = [name]
        while pending:
            current = self._files.get(pending.pop())
            if current is not None and current.name not in found:
                found[current.name] = current.SerializeToString()
                pending.extend(current.dependency)
        return list(found.values())

    def file_of(self, symbol: str) -> list[bytes] | None:
        """Return the file that defines a symbol and all it imports, or None."""
        return self.file(self._file_of.get(symbol, ""))

    def file_of_extension(self, message: str, number: int) -> list[bytes] | None:
        """Return the file that defines an extension of `message` and all it imports, or None."""
        return self.file(self._extensions.get(message, {}).get(number, ""))

    def extension_numbers(self, message: str) -> list[int]:
        """Return the numbers of the extensions of a message."""
        return sorted(self._extensions.get(message, {}))


@functools.cache
def load_image(foreign: frozenset[str] = frozenset()) -> DescriptorImage:
    """Read the image once; `foreign` are services of other protocols, which generated code describes."""
    image = descriptor_pb2.FileDescriptorSet.FromString(IMAGE_FILE.read_bytes())
    # Not of our protos: health, reflection itself, and what errors carry, so that tools can show it as text.
    wheels = (health_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR, pb.DESCRIPTOR)
    known = {file.name for file in image.file}
    others = [file for name in sorted(foreign) for file in _with_imports(Default().FindServiceByName(name).file)]
    added = [_copy(file) for file in others if file.name not in known]
    return DescriptorImage([*image.file, *map(_copy, wheels), _reflection_v1(), *added])


def _with_imports(file: FileDescriptor) -> list[FileDescriptor]:
    return [file, *(found for imported in file.dependencies for found in _with_imports(imported))]


def _copy(descriptor: Any) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    descriptor.CopyToProto(file)
    return file


def _reflection_v1() -> descriptor_pb2.FileDescriptorProto:
    """Describe v1 of this very service, which the wheel knows by its older name only."""
    described = json_format.MessageToJson(_copy(pb.DESCRIPTOR)).replace("reflection.v1alpha", "reflection.v1")
    file = json_format.Parse(described, descriptor_pb2.FileDescriptorProto())
    file.name = "grpc/reflection/v1/reflection.proto"
    return file


def _pruned(
    file: descriptor_pb2.FileDescriptorProto, methods: Mapping[str, Collection[str]]
) -> descriptor_pb2.FileDescriptorProto:
    if not file.service or not file.package.startswith(_PRODUCT):
        return file
    pruned = descriptor_pb2.FileDescriptorProto()
    pruned.CopyFrom(file)
    del pruned.service[:]
    # Comments are kept by path: old paths of services and methods, and their new ones.
    moved: dict[tuple[int, ...], tuple[int, ...]] = {}
    for index, service in enumerate(file.service):
        served = methods.get(f"{file.package}.{service.name}", ())
        kept = [position for position, method in enumerate(service.method) if method.name in served]
        if not kept:
            continue
        at = (_SERVICE, len(pruned.service))
        moved[_SERVICE, index] = at
        moved |= {(_SERVICE, index, _METHOD, old): (*at, _METHOD, new) for new, old in enumerate(kept)}
        copy = pruned.service.add()
        copy.CopyFrom(service)
        del copy.method[:]
        copy.method.extend(service.method[old] for old in kept)
    del pruned.source_code_info.location[:]
    for location in file.source_code_info.location:
        path = tuple(location.path)
        if path[:1] == (_SERVICE,):
            length = 4 if path[2:3] == (_METHOD,) else 2
            if path[:length] not in moved:
                continue
            path = moved[path[:length]] + path[length:]
        copied = pruned.source_code_info.location.add()
        copied.CopyFrom(location)
        copied.path[:] = path
    return pruned


def add_reflection(
    server: grpc.aio.Server, methods: Mapping[str, Collection[str]], reader: RequestReader, *, everything: bool
) -> None:
    """Serve reflection on `server`, which serves these methods of these services.

    They are what is listed; `everything` describes the other services and methods of the product, too.
    """
    names = sorted({*methods, *_SERVICE_NAMES, _HEALTH})

    @functools.cache
    def described() -> DescriptorImage:
        image = load_image(frozenset(name for name in methods if not name.startswith(_PRODUCT)))
        return image if everything else image.serving(methods)

    streams = reflection_streams()

    async def info(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[Message]:
        with contextlib.ExitStack() as place:
            if (task := asyncio.current_task()) is not None:
                # Also where grpc drops the stream of a client that went away: see `Pipeline`.
                task.add_done_callback(lambda _: place.close())
            try:
                place.enter_context(streams.one_for(context.peer()))
                async for data in reader.requests_of_stranger(messages):
                    yield _answer(described(), names, parse(pb.ServerReflectionRequest, data))
            except CoxswainError as error:
                await abort(context, error)

    handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
        info, response_serializer=pb.ServerReflectionResponse.SerializeToString
    )
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}) for name in _SERVICE_NAMES)
    )


def _answer(
    image: DescriptorImage, names: list[str], request: pb.ServerReflectionRequest
) -> pb.ServerReflectionResponse:
    response = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
    files: list[bytes] | None = None
    match request.WhichOneof("message_request"):
        case "list_services":
            response.list_services_response.service.extend(pb.ServiceResponse(name=name) for name in names)
            return response
        case "all_extension_numbers_of_type":
            response.all_extension_numbers_response.base_type_name = request.all_extension_numbers_of_type
            response.all_extension_numbers_response.extension_number.extend(
                image.extension_numbers(request.all_extension_numbers_of_type)
            )
            return response
        case "file_by_filename":
            files = image.file(request.file_by_filename)
        case "file_containing_symbol":
            files = image.file_of(request.file_containing_symbol)
        case "file_containing_extension":
            extension = request.file_containing_extension
            files = image.file_of_extension(extension.containing_type, extension.extension_number)
    if files is None:
        response.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
        response.error_response.error_message = "nothing of that name is defined here"
    else:
        response.file_descriptor_response.file_descriptor_proto.extend(files)
    return response


def _symbols(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    prefix = f"{file.package}." if file.package else ""
    for service in file.service:
        yield prefix + service.name
        for method in service.method:
            yield f"{prefix}{service.name}.{method.name}"
    for extension in file.extension:
        yield prefix + extension.name
    for enum in file.enum_type:
        yield prefix + enum.name
        for value in enum.value:
            yield prefix + value.name
    pending = [(prefix, message) for message in file.message_type]
    while pending:
        scope, message = pending.pop()
        name = scope + message.name
        yield name
        for field in message.field:
            yield f"{name}.{field.name}"
        for enum in message.enum_type:
            yield f"{name}.{enum.name}"
        pending.extend((f"{name}.", nested) for nested in message.nested_type)
