"""The descriptors of the product, and the comments of the protos, which generated code does not carry."""

import functools
import importlib
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from services.common.grpc.reflection import IMAGE_FILE

_NAMED = {"message_type", "nested_type", "field", "enum_type", "value", "service", "method", "extension", "oneof_decl"}


@functools.cache
def files() -> tuple[FileDescriptor, ...]:
    """Return the product's files in the order of their names."""
    names = sorted(file.name for file in _image().file if file.name.startswith("coxswain/"))
    modules = (name.removesuffix(".proto").replace("/", ".") + "_pb2" for name in names)
    return tuple(importlib.import_module(module).DESCRIPTOR for module in modules)


@functools.cache
def comments() -> dict[str, str]:
    """Return the comment of everything that has a name, by its full name; values of enums are within their enum."""
    return {
        name: location.leading_comments + location.trailing_comments
        for file in _image().file
        if file.name.startswith("coxswain/")
        for location in file.source_code_info.location
        if (name := _name(file, list(location.path))) is not None
    }


@functools.cache
def _image() -> FileDescriptorSet:
    return FileDescriptorSet.FromString(IMAGE_FILE.read_bytes())


def _name(file: FileDescriptorProto, path: list[int]) -> str | None:
    """Return the full name of what a path of numbers leads to, if that is one thing that has a name."""
    scope: Any = file
    name = file.package
    while path:
        if len(path) < 2:
            return None
        field = scope.DESCRIPTOR.fields_by_number[path[0]]
        if field.name not in _NAMED:
            return None
        scope = getattr(scope, field.name)[path[1]]
        name = f"{name}.{scope.name}"
        path = path[2:]
    return name if scope is not file else None
