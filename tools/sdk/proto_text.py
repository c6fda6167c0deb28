"""Writes the text of a .proto file from its descriptor, for packages that carry their protos as descriptors alone."""

import json
from collections.abc import Iterator, Sequence

from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.message import Message

_LABELS = {
    FieldDescriptorProto.LABEL_OPTIONAL: "optional ",
    FieldDescriptorProto.LABEL_REQUIRED: "required ",
    FieldDescriptorProto.LABEL_REPEATED: "repeated ",
}
_MAX_FIELD_NUMBER = 536_870_911
_INDENT = "  "


def proto_text(file: FileDescriptorProto) -> str:
    """Return the text of a proto2 file without comments.

    It covers what files of options need: messages, enums, extensions and options, no services, groups, maps or default
    values. Compile the result and compare the descriptors. The pool of `file` has to know the extensions in options.
    """
    lines = ['syntax = "proto2";', f"package {file.package};"]
    lines += [f'import "{name}";' for name in file.dependency]
    lines += [f"option {option};" for option in _options(file.options)]
    for message in file.message_type:
        lines += _message(message)
    for enum in file.enum_type:
        lines += _enum(enum)
    for extension in file.extension:
        lines += [f"extend {extension.extendee} {{", f"{_INDENT}{_field(extension)}", "}"]
    return "\n".join(lines) + "\n"


def _message(message: DescriptorProto) -> list[str]:
    lines: list[str] = []
    open_oneof = -1
    for field in message.field:
        oneof = field.oneof_index if field.HasField("oneof_index") else -1
        if oneof != open_oneof and open_oneof >= 0:
            lines.append("}")
        if oneof != open_oneof and oneof >= 0:
            declared = message.oneof_decl[oneof]
            lines += [f"oneof {declared.name} {{", *(f"option {option};" for option in _options(declared.options))]
        open_oneof = oneof
        lines.append(_field(field, labelled=oneof < 0))
    if open_oneof >= 0:
        lines.append("}")
    for nested in message.nested_type:
        lines += _message(nested)
    for enum in message.enum_type:
        lines += _enum(enum)
    lines += [f"extensions {_range(each.start, each.end - 1)};" for each in message.extension_range]
    lines += [f"reserved {_range(each.start, each.end - 1)};" for each in message.reserved_range]
    lines += [f'reserved "{name}";' for name in message.reserved_name]
    return _block(f"message {message.name}", [*(f"option {each};" for each in _options(message.options)), *lines])


def _enum(enum: EnumDescriptorProto) -> list[str]:
    lines = [f"option {option};" for option in _options(enum.options)]
    lines += [f"{value.name} = {value.number}{_bracketed(value.options)};" for value in enum.value]
    lines += [f"reserved {_range(each.start, each.end)};" for each in enum.reserved_range]
    lines += [f'reserved "{name}";' for name in enum.reserved_name]
    return _block(f"enum {enum.name}", lines)


def _block(opening: str, lines: Sequence[str]) -> list[str]:
    return [f"{opening} {{", *(f"{_INDENT}{line}" for line in lines), "}"]


def _field(field: FieldDescriptorProto, *, labelled: bool = True) -> str:
    kind = field.type_name or FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    label = _LABELS[field.label] if labelled else ""
    return f"{label}{kind} {field.name} = {field.number}{_bracketed(field.options)};"


def _range(first: int, last: int) -> str:
    if first == last:
        return str(first)
    return f"{first} to {'max' if last == _MAX_FIELD_NUMBER else last}"


def _bracketed(options: Message) -> str:
    given = list(_options(options))
    return f" [{', '.join(given)}]" if given else ""


def _options(options: Message) -> Iterator[str]:
    for field, value in options.ListFields():
        name = f"({field.full_name})" if field.is_extension else field.name
        for each in value if field.is_repeated else [value]:
            yield f"{name} = {_value(field, each)}"


def _value(field: FieldDescriptor, value: object) -> str:
    if isinstance(value, Message):
        return f"{{ {text_format.MessageToString(value, as_one_line=True)} }}"
    if isinstance(value, str):
        return json.dumps(value)
    if field.enum_type is not None:
        assert isinstance(value, int)
        return str(field.enum_type.values_by_number[value].name)
    return str(value).lower()
