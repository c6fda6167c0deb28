"""Whether a JSON value is a JSON schema of draft 2020-12.

`jsonschema` compares every part with the schema of schemas, a tenth of a millisecond for each keyword: the schemas of
one large source take it minutes. The rules are these, as types that pydantic checks in a hundredth of that time.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    TypeAdapter,
    ValidationError,
    WrapValidator,
    create_model,
)

_MOST_SHOWN = 300
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = (
    *("items", "additionalProperties", "contains", "propertyNames", "if", "then", "else", "not"),
    *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
)
_KINDS = ("array", "boolean", "integer", "null", "number", "object", "string")


def _different(items: list[Any]) -> list[Any]:
    if len(set(items)) < len(items):
        raise ValueError("an item is there twice")
    return items


def _whole(number: float) -> float:
    if not number.is_integer():
        raise ValueError("has to be a whole number")
    return number


def _regular(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError):
        raise ValueError("is not a regular expression") from None
    return text


def _schema(value: Any, check: Callable[[Any], Any]) -> Any:
    if isinstance(value, bool):
        return value
    if not isinstance(value, Mapping):
        raise ValueError("has to be a schema: an object, true or false")
    return check(value)


def _kinds(value: Any) -> Any:
    kinds = value if isinstance(value, list) else [value]
    if not kinds or not all(isinstance(kind, str) and kind in _KINDS for kind in kinds):
        raise ValueError(f"has to be one of {', '.join(_KINDS)}, or a list of such")
    return _different(kinds)


def _schema_or_names(value: Any, check: Callable[[Any], Any]) -> Any:
    return _NAMES.validate_python(value) if isinstance(value, list) else _schema(value, check)


_Number: TypeAlias = Annotated[float, Field(strict=True)]
_Count: TypeAlias = Annotated[float, Field(strict=True, ge=0), AfterValidator(_whole)]
_Regex: TypeAlias = Annotated[StrictStr, AfterValidator(_regular)]
_Anchor: TypeAlias = Annotated[StrictStr, Field(pattern="^[A-Za-z_][-A-Za-z0-9._]*$")]
_Strings: TypeAlias = Annotated[list[StrictStr], AfterValidator(_different)]
_Part: TypeAlias = Annotated["_Keywords", WrapValidator(_schema)]
_Parts: TypeAlias = Annotated[list[_Part], Field(min_length=1)]
_NAMES = TypeAdapter[list[str]](_Strings)

_TYPES: Mapping[str, Any] = {
    "$id": Annotated[StrictStr, Field(pattern="^[^#]*#?$")],
    "$vocabulary": dict[str, StrictBool],
    **dict.fromkeys(("$schema", "$ref", "$dynamicRef", "$recursiveRef", "$comment"), StrictStr),
    **dict.fromkeys(("$anchor", "$dynamicAnchor", "$recursiveAnchor"), _Anchor),
    **dict.fromkeys(("title", "description", "format", "contentEncoding", "contentMediaType"), StrictStr),
    **dict.fromkeys(("deprecated", "readOnly", "writeOnly", "uniqueItems"), StrictBool),
    **dict.fromkeys(("enum", "examples"), list[Any]),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"), _Number),
    "multipleOf": Annotated[float, Field(strict=True, gt=0)],
    **dict.fromkeys(("maxLength", "minLength", "maxItems", "minItems", "maxContains", "minContains"), _Count),
    **dict.fromkeys(("maxProperties", "minProperties"), _Count),
    "pattern": _Regex,
    "type": Annotated[Any, AfterValidator(_kinds)],
    "required": _Strings,
    "dependentRequired": dict[str, _Strings],
    "dependencies": dict[str, Annotated["_Keywords", WrapValidator(_schema_or_names)]],
    **dict.fromkeys(("items", "contains", "additionalProperties", "propertyNames", "if", "then", "else", "not"), _Part),
    **dict.fromkeys(("unevaluatedItems", "unevaluatedProperties", "contentSchema"), _Part),
    **dict.fromkeys(("properties", "dependentSchemas", "$defs", "definitions"), dict[str, _Part]),
    "patternProperties": dict[_Regex, _Part],
    **dict.fromkeys(("prefixItems", "allOf", "anyOf", "oneOf"), _Parts),
}
"""What each keyword holds; others may stand beside them."""

# Optional, but what is there holds what it has to: null is no default that a schema could name.
_FIELDS: dict[str, Any] = {
    f"keyword{index}": (kind, Field(None, alias=name)) for index, (name, kind) in enumerate(_TYPES.items())
}
_Keywords: Any = create_model("_Keywords", __config__=ConfigDict(extra="ignore"), __module__=__name__, **_FIELDS)
_Keywords.model_rebuild()
_SCHEMA = TypeAdapter[Any](_Part)


def schema_error(schema: object) -> str:
    """Return why a value is not a JSON schema, "" when it is one. It has to be shallow.

    Example: "properties.id.type: has to be one of array, boolean, integer, null, number, object, string, or a list of
    such".
    """
    try:
        _SCHEMA.validate_python(schema)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function-wrap"))
        text = first["msg"].removeprefix("Value error, ")
        return f"{path}: {text}"[:_MOST_SHOWN] if path else text[:_MOST_SHOWN]
    return ""


def parts_of(schema: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield the schemas right inside one that `schema_error` has accepted, each with its place, but not true or false.

    Example: (("properties", "id"), {"type": "string"}).
    """
    found: list[tuple[tuple[str, ...], Any]] = []
    for keyword in _BY_NAME:
        found += [((keyword, name), part) for name, part in schema.get(keyword, {}).items()]
    for keyword in _LISTED:
        found += [((keyword, str(index)), part) for index, part in enumerate(schema.get(keyword, ()))]
    found += [((keyword,), schema.get(keyword)) for keyword in _SINGLE]
    yield from ((place, part) for place, part in found if isinstance(part, Mapping))


def values_in(value: Any) -> Iterator[Any]:
    """Yield a JSON value and all that is inside of it, at any depth, in no order."""
    pending = [value]
    while pending:
        item = pending.pop()
        yield item
        pending.extend(values_of(item))


def values_of(value: Any) -> Iterator[Any]:
    """Yield the values right inside a JSON value: those of an object, or the items of a list."""
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list):
        yield from value
