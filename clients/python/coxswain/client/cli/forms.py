"""Forms of questions: the fields that their JSON schema has, and answers that people type."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from coxswain.client.near import did_you_mean, near_names

_YES, _NO = frozenset({"yes", "y", "true", "1", "on"}), frozenset({"no", "n", "false", "0", "off"})
_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "yes or no",
    "object": "JSON object",
}


class FieldError(ValueError):
    """A text that is no answer for its field; the message names the field."""


@dataclass(frozen=True, slots=True)
class FormField:
    """One field of a form."""

    name: str
    schema: Mapping[str, Any]
    required: bool = False

    @property
    def title(self) -> str:
        """What the field is called, for people."""
        return str(self.schema.get("title") or self.name)

    @property
    def description(self) -> str:
        """What the field is for; may be empty."""
        return str(self.schema.get("description") or "")

    @property
    def has_default(self) -> bool:
        """Whether the field has a value that counts when none is given."""
        return "default" in self.schema

    @property
    def default(self) -> Any:
        """That value."""
        return self.schema.get("default")

    @property
    def is_list(self) -> bool:
        """Whether several values may be chosen."""
        return self._type == "array"

    @property
    def choices(self) -> dict[str, Any]:
        """The values to choose from, by what people type for each; empty when any value may be given."""
        if isinstance(values := self._choosing.get("enum"), list):
            return {shown(value): value for value in values}
        return {shown(option["const"]): option["const"] for option in self._options}

    @property
    def _choosing(self) -> Mapping[str, Any]:
        """The schema of one choice."""
        schema = self.schema.get("items") if self.is_list else self.schema
        return schema if isinstance(schema, Mapping) else {}

    @property
    def _options(self) -> list[Mapping[str, Any]]:
        options = self._choosing.get("oneOf") or self._choosing.get("anyOf")
        found = options if isinstance(options, list) else []
        return [option for option in found if isinstance(option, Mapping) and "const" in option]

    @property
    def _type(self) -> str:
        kind = self.schema.get("type", "")
        if isinstance(kind, list):
            return next((str(one) for one in kind if one != "null"), "")
        return str(kind)

    def kind(self) -> str:
        """What is typed for it, in words."""
        if choices := self.choices:
            return f"{'some' if self.is_list else 'one'} of {', '.join(choices)}"
        if self.is_list:
            return "JSON list"
        words = _WORDS.get(self._type, "text or JSON")
        limits = [
            f"{word} {shown(self.schema[key])}"
            for key, word in (("minimum", "from"), ("maximum", "to"))
            if isinstance(self.schema.get(key), int | float)
        ]
        return " ".join([words, *limits])

    def line(self) -> str:
        """The field in one line: its name, what is typed for it, whether it has to be given, and what it is for."""
        must = "required" if self.required else "may be left out"
        default = f", {shown(self.default)} by default" if self.has_default else ""
        title = "" if self.title == self.name else f" {self.title}."
        description = f" {self.description}" if self.description else ""
        return f"{self.name} ({self.kind()}; {must}{default}){title}{description}"

    def value(self, text: str) -> Any:
        """The value that a text means. Raises FieldError."""
        if choices := self.choices:
            return self._choice(text, choices)
        match self._type:
            case "boolean":
                if text.lower() in _YES | _NO:
                    return text.lower() in _YES
            case "integer" | "number":
                number = _number(text)
                if number is not None and (self._type == "number" or number == int(number)):
                    return number
            case "string":
                return text
            case _:
                return self._json(text)
        raise FieldError(f"{self.name}: expected {self.kind()}, not {text!r}")

    def _choice(self, text: str, choices: Mapping[str, Any]) -> Any:
        spelled = {name.lower(): value for name, value in choices.items()} | {
            title.lower(): value for title, value in self._titles()
        }
        wanted = [part.strip() for part in text.split(",")] if self.is_list else [text.strip()]
        for part in wanted:
            if part.lower() not in spelled:
                raise FieldError(f"{self.name}: expected {self.kind()}, not {part!r}")
        found = [spelled[part.lower()] for part in wanted]
        return found if self.is_list else found[0]

    def _titles(self) -> Iterator[tuple[str, Any]]:
        yield from ((str(option["title"]), option["const"]) for option in self._options if "title" in option)
        names, values = self._choosing.get("enumNames"), self._choosing.get("enum")
        if isinstance(names, list) and isinstance(values, list):
            yield from zip(map(str, names), values, strict=False)

    def _json(self, text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            if self._type in {"array", "object"}:
                raise FieldError(f"{self.name}: expected {self.kind()}, not {text!r}") from None
            return text


def fields_of(schema: Mapping[str, Any]) -> list[FormField]:
    """The fields of an object's schema, those that are required first, by name."""
    properties = schema.get("properties")
    required = schema.get("required")
    names = {str(name) for name in required} if isinstance(required, list) else set()
    found = [
        FormField(str(name), field if isinstance(field, Mapping) else {}, name in names)
        for name, field in (properties.items() if isinstance(properties, Mapping) else ())
    ]
    # A struct keeps no order.
    return sorted(found, key=lambda field: (not field.required, field.name))


def filled(schema: Mapping[str, Any], given: Iterable[str], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The object that texts such as ``amount=5`` or ``items:=[1]`` make, on top of what there was ``before``.

    Raises FieldError with a line for each text that is no answer, and for each field that is missing.
    """
    fields = {field.name: field for field in fields_of(schema)}
    problems: list[str] = []
    values = dict(before or {})
    if before is None:
        values = {field.name: field.default for field in fields.values() if field.has_default}
    for text in given:
        try:
            name, value = _assigned(text, fields, open_ended=schema.get("additionalProperties") is not False)
        except FieldError as error:
            problems.append(str(error))
            continue
        values[name] = value
    problems += [
        f"{field.name}: is missing; expected {field.kind()}"
        for field in fields.values()
        if field.required and field.name not in values and not any(line.startswith(field.name) for line in problems)
    ]
    if problems:
        raise FieldError("\n".join(problems))
    return values


def _assigned(text: str, fields: Mapping[str, FormField], *, open_ended: bool) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    as_json = key.endswith(":")
    name = key.removesuffix(":")
    if not equals or not name:
        raise FieldError(f"{text!r}: write NAME=VALUE, or NAME:=JSON")
    field = fields.get(name)
    if field is None and (fields or not open_ended):
        hint = did_you_mean(near_names(name, fields, 1)) or f"there is {', '.join(fields) or 'none'}"
        raise FieldError(f"{name}: there is no such field; {hint}")
    if as_json:
        try:
            return name, json.loads(value)
        except ValueError as error:
            raise FieldError(f"{name}: not valid JSON: {error}") from error
    return name, (field or FormField(name, {})).value(value)


def shown(value: Any) -> str:
    """A value as people type it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _number(text: str) -> int | float | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return None
    return number if number == number and abs(number) != float("inf") else None
