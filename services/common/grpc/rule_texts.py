"""Texts of broken proto rules: what is allowed, and what came instead."""

from collections.abc import Iterable, Sequence
from typing import Any

import protovalidate
from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration

from coxswain.common.v1 import format_pb2

_UNSPECIFIED = "_UNSPECIFIED"
# Rules whose two bounds are said at once: the names of both, and what they count.
_SIZES = {
    "string.len": ("len", "len", "characters"),
    "string.min_len": ("min_len", "max_len", "characters"),
    "string.max_len": ("min_len", "max_len", "characters"),
    "string.min_bytes": ("min_bytes", "max_bytes", "bytes"),
    "string.max_bytes": ("min_bytes", "max_bytes", "bytes"),
    "bytes.min_len": ("min_len", "max_len", "bytes"),
    "bytes.max_len": ("min_len", "max_len", "bytes"),
    "repeated.min_items": ("min_items", "max_items", "items"),
    "repeated.max_items": ("min_items", "max_items", "items"),
    "map.min_pairs": ("min_pairs", "max_pairs", "entries"),
    "map.max_pairs": ("min_pairs", "max_pairs", "entries"),
}
_NUMBERS = frozenset(
    {"int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32", "sfixed64"}
    | {"float", "double", "duration"}
)


def rule_text(message: Any, violation: protovalidate.Violation) -> str:
    """Return the description of a violation found in a message of that descriptor.

    Rules that a proto words itself keep their words.
    """
    broken = violation.proto
    rule = broken.rule_id
    field = _field(message, violation)
    if field is None:
        oneof = _oneof(message, violation)
        return f"set one of {_listed(oneof)}" if oneof else broken.message
    text = "has to be set" if rule == "required" else _text(field, violation)
    return f"the key {text}" if broken.for_key else text


def _text(field: FieldDescriptor, violation: protovalidate.Violation) -> str:
    rule, rules = violation.proto.rule_id, _rules(field, violation)
    kind, _, name = rule.partition(".")
    value, limit = violation.field_value, violation.rule_value
    if rule in _SIZES:
        least, most, unit = _SIZES[rule]
        if _bound(rules, least) == 1 and _bound(rules, most) is None:
            return "must not be empty"
        size = len(str(value).encode()) if unit == "bytes" and isinstance(value, str) else len(value)
        verb = "must be" if kind in {"string", "bytes"} else "must have"
        unit = f"{unit} long" if kind in {"string", "bytes"} else unit
        return f"{verb} {_range(_bound(rules, least), _bound(rules, most))} {unit}; it has {size}"
    if rule == "string.pattern":
        wanted = field.GetOptions().Extensions[format_pb2.format]
        return f"must be {wanted}" if wanted else violation.proto.message
    if rule == "repeated.unique":
        return "must hold each item once; some are there twice"
    if kind == "enum":
        return _enum_text(field, rules, value)
    if name in {"in", "not_in"}:
        listed = _listed([f'"{item}"' if isinstance(item, str) else _number(item) for item in limit], "or")
        return f"must be one of {listed}" if name == "in" else f"must not be {listed}"
    if name == "finite":
        return "must be a finite number"
    if kind in _NUMBERS and rules is not None:
        return f"must be {_interval(rules)}; it is {_number(value)}"
    return violation.proto.message


def _enum_text(field: FieldDescriptor, rules: Any, value: Any) -> str:
    enum = field.enum_type
    assert enum is not None
    allowed = [
        option.name
        for option in enum.values
        if option.number not in rules.not_in
        and (not getattr(rules, "in") or option.number in getattr(rules, "in"))
        and not option.name.endswith(_UNSPECIFIED)
    ]
    came = enum.values_by_number.get(value)
    if value == 0 and came is not None and came.name.endswith(_UNSPECIFIED):
        return f"has to be set to one of {_listed(allowed, 'or')}"
    return f"must be one of {_listed(allowed, 'or')}; it is {came.name if came is not None else value}"


def _range(least: Any, most: Any) -> str:
    if least is None:
        return f"at most {most}"
    if most is None:
        return f"at least {least}"
    return f"exactly {least}" if least == most else f"{least} to {most}"


def _interval(rules: Any) -> str:
    low = next((name for name in ("gte", "gt") if rules.HasField(name)), None)
    high = next((name for name in ("lte", "lt") if rules.HasField(name)), None)
    words = {"gte": "at least", "gt": "more than", "lte": "at most", "lt": "less than"}
    if low == "gte" and high == "lte":
        return f"from {_number(rules.gte)} to {_number(rules.lte)}"
    return " and ".join(f"{words[name]} {_number(getattr(rules, name))}" for name in (low, high) if name is not None)


def _number(value: Any) -> str:
    if isinstance(value, Duration):
        return f"{_number(value.ToNanoseconds() / 1e9)} s"
    if isinstance(value, float):
        return f"{value:.15g}"
    return str(value)


def _bound(rules: Any, name: str) -> int | None:
    return int(getattr(rules, name)) if rules is not None and rules.HasField(name) else None


def _rules(field: FieldDescriptor, violation: protovalidate.Violation) -> Any:
    """Return the message of rules that the broken one is part of; its path ends with the rule itself."""
    rules: Any = field.GetOptions().Extensions[validate_pb2.field]
    for element in _elements(violation.proto.rule)[:-1]:
        rules = getattr(rules, element.field_name)
    return rules


def _field(message: Descriptor, violation: protovalidate.Violation) -> FieldDescriptor | None:
    field: FieldDescriptor | None = None
    scope: Descriptor | None = message
    for element in _elements(violation.proto.field):
        field = scope.fields_by_name.get(element.field_name) if scope is not None else None
        scope = _inside(field)
    return field


def _elements(path: protovalidate.FieldPathPb | None) -> Sequence[Any]:
    return path.elements if path is not None else ()


def _inside(field: FieldDescriptor | None) -> Descriptor | None:
    """Return the message a field holds; for a map, that of its values."""
    if field is None or field.message_type is None:
        return None
    held: Descriptor = field.message_type
    return held.fields_by_name["value"].message_type if held.GetOptions().map_entry else held


def _oneof(message: Descriptor, violation: protovalidate.Violation) -> list[str]:
    scope: Descriptor | None = message
    elements = _elements(violation.proto.field)
    for element in elements[:-1]:
        scope = _inside(scope.fields_by_name.get(element.field_name)) if scope is not None else None
    oneof = scope.oneofs_by_name.get(elements[-1].field_name) if scope is not None and elements else None
    return [field.name for field in oneof.fields] if oneof is not None else []


def _listed(items: Iterable[str], last: str = "or") -> str:
    *others, final = list(items)
    return f"{', '.join(others)} {last} {final}" if others else final
