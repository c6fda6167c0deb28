"""What the rules of a field allow, in words."""

from collections.abc import Iterator
from typing import Any

from buf.validate import validate_pb2
from google.protobuf.descriptor import FieldDescriptor

from coxswain.common.v1 import format_pb2

# Bounds that are said at once: the least, the most, and what they count.
_SIZES = (
    ("min_len", "max_len", "characters"),
    ("min_bytes", "max_bytes", "bytes"),
    ("min_items", "max_items", "items"),
    ("min_pairs", "max_pairs", "entries"),
)
_BOUNDS = {"gte": "at least", "gt": "more than", "lte": "at most", "lt": "less than"}


def field_rules(field: FieldDescriptor) -> list[str]:
    """Return what callers have to keep to. Example: `["required", "1 to 64 characters"]`."""
    rules = field.GetOptions().Extensions[validate_pb2.field]
    said = ["required"] if rules.required else []
    said += _of_kind(field, rules, "bytes" if field.type == FieldDescriptor.TYPE_BYTES else "characters")
    return said + [f'else refused with "{rule.message}"' for rule in rules.cel]


def _of_kind(field: FieldDescriptor, rules: Any, unit: str) -> Iterator[str]:
    kind = rules.WhichOneof("type")
    if kind is None:
        return
    allowed = getattr(rules, kind)
    known = allowed.DESCRIPTOR.fields_by_name
    for least, most, counted in _SIZES:
        if least in known:
            size = _range(allowed, least, most)
            if size:
                yield f"{size} {unit if counted == 'characters' else counted}"
    for name, words in _BOUNDS.items():
        if name in known and allowed.HasField(name):
            yield f"{words} {_value(getattr(allowed, name))}"
    if "pattern" in known and allowed.HasField("pattern"):
        yield field.GetOptions().Extensions[format_pb2.format] or f"matches `{allowed.pattern}`"
    for name, words in (("in", "one of"), ("not_in", "none of")):
        if name in known and len(values := getattr(allowed, name)):
            yield f"{words} {', '.join(_choice(field, value) for value in values)}"
    if "const" in known and allowed.HasField("const"):
        yield f"exactly {_value(allowed.const)}"
    if "unique" in known and allowed.unique:
        yield "each item once"
    for part in ("items", "keys", "values"):
        if part in known and allowed.HasField(part):
            for said in _of_kind(field, getattr(allowed, part), "characters"):
                yield f"{'each' if part == 'items' else part}: {said}"


def _range(allowed: Any, least: str, most: str) -> str:
    low = getattr(allowed, least) if allowed.HasField(least) else 0
    if not allowed.HasField(most):
        return f"at least {low}" if low else ""
    high = getattr(allowed, most)
    if low == high:
        return f"exactly {high}"
    return f"{low} to {high}" if low else f"at most {high}"


def _choice(field: FieldDescriptor, value: Any) -> str:
    return field.enum_type.values_by_number[value].name if field.enum_type else _value(value)


def _value(value: Any) -> str:
    return f"{value.seconds + value.nanos / 1e9:g} s" if hasattr(value, "nanos") else f"{value}"
