"""Turns the schemas of a document into JSON Schema 2020-12 for arguments, complete in itself."""

import json
import re
from typing import Any

from services.orchestrator.tool_gateway.adapters.openapi.document import BadDocument, Node, at_reference

MAX_SCHEMA_BYTES = 128 * 1024
_BY_NAME = ("properties", "patternProperties")
_SINGLE = ("items", "additionalProperties", "propertyNames", "contains", "not", "if", "then", "else")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_PLAIN = frozenset(
    {
        "type", "enum", "const", "required", "title", "description", "default", "format", "pattern", "minimum",
        "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "minItems",
        "maxItems", "uniqueItems", "minProperties", "maxProperties", "minContains", "maxContains", "dependentRequired",
        "deprecated", "writeOnly",
    }
)  # fmt: skip
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_MAX_HOPS = 32


class ArgumentSchemas:
    """The schemas of one operation: what they refer to comes along as `$defs`, so that circles stay references."""

    def __init__(self, document: Node) -> None:
        self._document = document
        self._names: dict[str, str] = {}
        """Of references, in `$defs`."""
        self._waiting: list[str] = []
        self.warnings: list[str] = []

    def convert(self, schema: Any) -> Any:
        """Return a schema of the document, without what only answers have.

        Raises:
            BadDocument: a reference leads out of the document or to nothing.
        """
        if schema is True or not isinstance(schema, dict):
            return {} if not isinstance(schema, bool) else schema
        if isinstance(schema.get("$ref"), str):
            reference = {"$ref": f"#/$defs/{self._name(schema['$ref'])}"}
            siblings = self._converted({name: value for name, value in schema.items() if name != "$ref"})
            return {**siblings, **reference}
        return self._converted(schema)

    def definitions(self, room: int = MAX_SCHEMA_BYTES) -> dict[str, Any]:
        """Return every schema that converted ones refer to; from `room` bytes on they accept anything.

        Raises:
            BadDocument: see `convert`.
        """
        found: dict[str, Any] = {}
        while self._waiting:
            reference = self._waiting.pop(0)
            name = self._names[reference]
            converted = self.convert(at_reference(self._document, reference)) if room > 0 else {}
            room -= len(json.dumps(converted))
            if room <= 0:
                converted = {}
                self._warn("the schema is too large: parts of it accept anything")
            found[name] = converted
        return found

    def _name(self, reference: str) -> str:
        if reference not in self._names:
            at_reference(self._document, reference)
            wanted = _UNSAFE.sub("_", reference.rpartition("/")[2])[:64] or "root"
            name, number = wanted, 1
            while name in self._names.values():
                number += 1
                name = f"{wanted}_{number}"
            self._names[reference] = name
            self._waiting.append(reference)
        return self._names[reference]

    def _converted(self, schema: Node) -> Node:
        found: Node = {name: value for name, value in schema.items() if name in _PLAIN}
        for name in _BY_NAME:
            if isinstance(schema.get(name), dict):
                found[name] = {
                    key: self.convert(part) for key, part in schema[name].items() if not self._only_in_answers(part)
                }
        for name in _SINGLE:
            if isinstance(schema.get(name), dict | bool):
                found[name] = self.convert(schema[name])
        for name in _LISTS:
            if isinstance(schema.get(name), list):
                found[name] = [self.convert(part) for part in schema[name]]
        if isinstance(schema.get("required"), list):
            properties = schema.get("properties") or {}
            found["required"] = [
                name
                for name in schema["required"]
                if isinstance(name, str)
                and not (isinstance(properties, dict) and self._only_in_answers(properties.get(name)))
            ]
        elif "required" in found:
            del found["required"]
        _bounds_of_3_0(found)
        return _nullable(found) if schema.get("nullable") is True else found

    def _only_in_answers(self, schema: Any) -> bool:
        for _ in range(_MAX_HOPS):
            if not isinstance(schema, dict):
                return False
            if schema.get("readOnly") is True:
                return True
            if not isinstance(schema.get("$ref"), str):
                return False
            schema = at_reference(self._document, schema["$ref"])
        raise BadDocument("a reference leads in a circle")

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def _bounds_of_3_0(schema: Node) -> None:
    """Write `exclusiveMinimum: true` beside a minimum as newer schemas do, which hold the bound itself."""
    for name, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(schema.get(name), bool) and schema.pop(name) and bound in schema:
            schema[name] = schema.pop(bound)


def _nullable(schema: Node) -> Node:
    kind = schema.get("type")
    if isinstance(kind, str) and not any(name in schema for name in _LISTS):
        changed = {**schema, "type": [kind, "null"]}
        if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
            changed["enum"] = [*schema["enum"], None]
        return changed
    return {"anyOf": [schema, {"type": "null"}]}
