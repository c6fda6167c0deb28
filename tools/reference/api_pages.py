"""The API reference: a page for each noun, from its x_service.proto and x.proto, and a list of all methods."""

import posixpath
from collections.abc import Iterator
from pathlib import PurePosixPath

from buf.validate import validate_pb2
from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    MethodDescriptor,
    OneofDescriptor,
    ServiceDescriptor,
)
from google.protobuf.descriptor_pb2 import MethodOptions

from coxswain.client.policy import default_timeout
from coxswain.common.v1 import access_pb2
from tools.reference import protos
from tools.reference.markdown import cell, escaped, paragraphs
from tools.reference.rules import field_rules

INDEX = "README.md"
_REPEATING = {
    MethodOptions.NO_SIDE_EFFECTS: "changes nothing; may be repeated",
    MethodOptions.IDEMPOTENT: "may be repeated",
}
_SCALARS = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in dir(FieldDescriptor)
    if name.startswith("TYPE_")
}
_HEAD = """\
# API reference

All methods, from the comments of the protos. Servers return the same by reflection:
`grpcurl -plaintext 127.0.0.1:50051 describe coxswain.orchestrator.v1.ExecutionService`.
[Style of the API](../api-style.md) has the rules that hold everywhere, [Errors](../errors.md) every reason of a
failure, [Clients](../clients.md) how to call it from each language.

A role includes those before it: operator, editor, admin. Internal methods are served to Coxswain's own services alone,
on the internal listener. Deadlines are those that the Python client gives a call by default; a server takes any.
"May be repeated with its `request_id`" means: the same request, with the same id, has its effect once.
"""


def api_pages() -> dict[str, str]:
    """Return the text of each page, in Markdown, by its path. Example: `orchestrator/execution.md`."""
    pages: dict[str, list[str]] = {}
    # The service of a noun comes before its messages.
    for file in sorted(protos.files(), key=lambda file: not file.services_by_name):
        parts = pages.setdefault(page_of(file.name), [])
        for service in file.services_by_name.values():
            parts.extend(_service(service))
        for message in file.message_types_by_name.values():
            parts.extend(_message(message))
        for enum in file.enum_types_by_name.values():
            parts.extend(_enum(enum))
    texts = {page: _title(page) + "".join(parts) for page, parts in sorted(pages.items()) if parts}
    return {INDEX: _HEAD + "".join(_overview())} | texts


def page_of(proto: str) -> str:
    """Return the page that a proto is described on. Example: `coxswain/auth/v1/secret_service.proto`."""
    path = PurePosixPath(proto)
    return f"{path.parts[1]}/{path.stem.removesuffix('_service')}.md"


def _title(page: str) -> str:
    package, noun = page.removesuffix(".md").split("/")
    return f"# coxswain.{package}.v1: {noun.replace('_', ' ')}\n"


def _overview() -> Iterator[str]:
    package = ""
    for file in protos.files():
        for service in file.services_by_name.values():
            if file.package != package:
                package = file.package
                yield f"\n## {package.split('.')[1].capitalize()}\n"
            yield f"\n### {service.name}\n\n| method | role | what it does |\n|---|---|---|\n"
            for method in service.methods:
                first = _first_sentence(protos.comments()[method.full_name])
                link = f"{page_of(file.name)}#{_anchor(method.name)}"
                yield f"| [{method.name}]({link}) | {_role(method)} | {cell([first])} |\n"


def _first_sentence(comment: str) -> str:
    first = paragraphs(comment)[0]
    sentence, dot, _ = first.partition(". ")
    return sentence + dot.strip()


def _anchor(heading: str) -> str:
    return heading.lower().replace(".", "")


def _service(service: ServiceDescriptor) -> Iterator[str]:
    yield f"\n## {service.name}\n\n{_text(service.full_name)}\n"
    for method in service.methods:
        yield f"\n### {method.name}\n\n{_text(method.full_name)}\n\n| | |\n|---|---|\n"
        yield from (f"| {name} | {value} |\n" for name, value in _facts(method))


def _facts(method: MethodDescriptor) -> Iterator[tuple[str, str]]:
    options, proto = method.GetOptions(), method.containing_service.file.name
    yield "request", f"{'stream of ' if method.client_streaming else ''}{_link(method.input_type, proto)}"
    yield "response", f"{'stream of ' if method.server_streaming else ''}{_link(method.output_type, proto)}"
    yield "role", _role(method)
    if callers := options.Extensions[access_pb2.callers]:
        yield "internal", f"served to {', '.join(callers)}"
    repeating = _REPEATING.get(options.idempotency_level)
    if repeating is None:
        with_id = "request_id" in method.input_type.fields_by_name
        repeating = "may be repeated with its `request_id`" if with_id else "repeating it does it again"
    yield "repeating", repeating
    deadline = default_timeout(f"/{method.containing_service.full_name}/{method.name}", 30.0)
    yield "deadline", "none by default" if deadline is None else f"{deadline:g} s by default"


def _role(method: MethodDescriptor) -> str:
    role = method.GetOptions().Extensions[access_pb2.role]
    if role == access_pb2.ROLE_UNSPECIFIED:
        return "of whoever implements it"
    return access_pb2.Role.Name(role).removeprefix("ROLE_").lower().replace("_", " ").replace("anonymous", "none")


def _message(message: Descriptor) -> Iterator[str]:
    if message.GetOptions().map_entry:
        return
    yield f"\n## {_name(message)}\n\n{_text(message.full_name)}\n"
    yield from (f"\n{_choice(oneof)}\n" for oneof in message.oneofs if len(oneof.fields) > 1)
    if message.fields:
        yield "\n| field | type | what it is |\n|---|---|---|\n"
        for field in message.fields:
            yield f"| `{field.name}` | {_type(field, message.file.name)} | {cell(_about(field))} |\n"
    for nested in message.nested_types:
        yield from _message(nested)
    for enum in message.enum_types:
        yield from _enum(enum)


def _choice(oneof: OneofDescriptor) -> str:
    count = "Exactly one" if oneof.GetOptions().Extensions[validate_pb2.oneof].required else "At most one"
    fields = ", ".join(f"`{field.name}`" for field in oneof.fields)
    return " ".join([f"{count} of {fields}.", *paragraphs(protos.comments()[oneof.full_name])])


def _about(field: FieldDescriptor) -> list[str]:
    rules = field_rules(field)
    said = f"Rules: {escaped('; '.join(rules))}." if rules else ""
    return [*paragraphs(protos.comments()[field.full_name]), said]


def _type(field: FieldDescriptor, proto: str) -> str:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        return f"map of {_type(key, proto)} to {_type(value, proto)}"
    of = field.message_type or field.enum_type
    name = _link(of, proto) if of is not None else _SCALARS[field.type]
    if field.is_repeated:
        return f"list of {name}"
    optional = field.containing_oneof is not None and len(field.containing_oneof.fields) == 1
    return f"{name}, optional" if optional else name


def _link(of: Descriptor | EnumDescriptor, proto: str) -> str:
    if not of.file.name.startswith("coxswain/"):
        return f"`{of.full_name}`"
    here, there = page_of(proto), page_of(of.file.name)
    path = "" if here == there else posixpath.relpath(there, posixpath.dirname(here))
    return f"[{of.name}]({path}#{_anchor(_name(of))})"


def _name(of: Descriptor | EnumDescriptor) -> str:
    return of.full_name.removeprefix(f"{of.file.package}.")


def _enum(enum: EnumDescriptor) -> Iterator[str]:
    yield f"\n## {_name(enum)}\n\n{_text(enum.full_name)}\n\n| value | number | what it means |\n|---|---|---|\n"
    for value in enum.values:
        about = paragraphs(protos.comments()[f"{enum.full_name}.{value.name}"])
        yield f"| `{value.name}` | {value.number} | {cell(about)} |\n"


def _text(full_name: str) -> str:
    return "\n\n".join(paragraphs(protos.comments()[full_name]))
