"""Every rule of every field, broken in turn: none is explained in the words of the library."""

import math
from collections.abc import Iterator
from typing import Any

import protovalidate
import pytest
from buf.validate import validate_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from coxswain.common.v1 import format_pb2
from services.common.grpc.rule_texts import rule_text
from tests.support.descriptors import product_messages

_FLOATS = {FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE}
# Rules that say how others are applied, and those that a proto words itself.
_NOT_BROKEN = {"ignore", "cel", "cel_expression"}


def rules_of(field: FieldDescriptor) -> Any:
    return field.GetOptions().Extensions[validate_pb2.field]


def ruled_fields() -> list[FieldDescriptor]:
    """Return every field with a rule, but those whose words their owners have not written yet."""
    return [
        field
        for message in product_messages()
        for field in message.fields
        if field.GetOptions().HasExtension(validate_pb2.field)
        and rules_of(field).ignore != validate_pb2.IGNORE_ALWAYS
        and ("pattern" not in str(rules_of(field)) or field.GetOptions().Extensions[format_pb2.format])
    ]


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def bad_values(field: FieldDescriptor) -> Iterator[Any]:
    """Yield values of a whole field, each of which breaks some of its rules."""
    rules = rules_of(field)
    if is_map(field):
        assert field.message_type is not None
        key, value = (field.message_type.fields_by_name[part] for part in ("key", "value"))
        good = GetMessageClass(value.message_type)() if value.message_type else "v"
        yield {f"k{number}": good for number in range(rules.map.max_pairs + 1)}
        yield from ({bad: good} for bad in bad_items(key, rules.map.keys))
        yield from ({"k": bad} for bad in bad_items(value, rules.map.values))
    elif field.is_repeated:
        yield []
        good = list(bad_items(field, validate_pb2.FieldRules()))[-1]
        yield [good] * 2
        if rules.repeated.max_items:
            yield [good] * (rules.repeated.max_items + 1)
        yield from ([bad] for bad in bad_items(field, rules.repeated.items))
    else:
        yield None
        yield from bad_items(field, rules)


def bad_items(field: FieldDescriptor, rules: Any) -> Iterator[Any]:
    if field.type == FieldDescriptor.TYPE_STRING:
        longest = max(rules.string.max_len, rules.string.max_bytes, rules.string.len)
        yield from ("", "\x01", " |/", "x" * (longest + 1))
    elif field.type == FieldDescriptor.TYPE_BYTES:
        yield from (b"", b"x" * (rules.bytes.max_len + 1))
    elif field.type == FieldDescriptor.TYPE_ENUM:
        assert field.enum_type is not None
        yield from (99999, *(value.number for value in field.enum_type.values))
    elif field.type == FieldDescriptor.TYPE_BOOL:
        yield False
    elif field.message_type is Duration.DESCRIPTOR:
        yield from (Duration(seconds=-1), Duration(), Duration(seconds=10**10))
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        assert field.message_type is not None
        yield GetMessageClass(field.message_type)()
    elif field.type in _FLOATS:
        yield from (-1e30, 1e30, math.nan, math.inf, 0.5)
    else:
        small = field.type in {FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32}
        unsigned = field.type in {FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64}
        yield from (0 if unsigned else -(2**31 if small else 2**63), 2**31 - 1 if small else 2**32 - 1, 0)


def violations_of(field: FieldDescriptor, value: Any) -> list[protovalidate.Violation]:
    """Return what a message with this value of the field breaks by the field itself."""
    assert field.containing_type is not None
    message: Message = GetMessageClass(field.containing_type)(**({} if value is None else {field.name: value}))
    return [
        violation
        for violation in protovalidate.collect_violations(message)
        if violation.proto.field is not None
        and [element.field_name for element in violation.proto.field.elements] == [field.name]
    ]


def rule_paths(rules: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every rule that is stated; numbers have one for their whole range."""
    for described, value in rules.ListFields():
        path = (*at, described.name)
        if described.name in _NOT_BROKEN:
            continue
        if described.message_type is None or described.is_repeated or described.name in {"lte", "lt", "gte", "gt"}:
            number = described.name in {"lte", "lt", "gte", "gt"}
            yield at if number else path
        else:
            yield from rule_paths(value, path)


@pytest.mark.parametrize("field", ruled_fields(), ids=lambda field: field.full_name.removeprefix("coxswain."))
def test_every_rule_is_explained_in_our_words(field: FieldDescriptor) -> None:
    broken: set[tuple[str, ...]] = set()
    for value in bad_values(field):
        for violation in violations_of(field, value):
            assert violation.proto.rule is not None
            path = tuple(element.field_name for element in violation.proto.rule.elements)
            broken |= {path, path[:-1]}
            if "cel" not in path:
                text = rule_text(field.containing_type, violation)
                assert text != violation.proto.message, path
                assert "regex" not in text
    assert set(rule_paths(rules_of(field))) <= broken, "no value here breaks these"
