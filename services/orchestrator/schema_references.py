"""Whether the references of a JSON schema lead to schemas inside of it."""

from collections.abc import Mapping
from typing import Any

from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from services.orchestrator.json_schemas import parts_of, schema_error

_MOST_SHOWN = 100
_REFERENCES = ("$ref", "$dynamicRef")


def reference_error(schema: Mapping[str, Any]) -> str:
    """Return the first reference of a schema that leads to no schema, with its place; "" when each leads to one.

    `schema_error` has accepted the schema, and `outside_reference` has found nothing.
    Example: 'properties.a.$ref: there is no "#/$defs/none"'.
    """
    resolver = Registry().resolver_with_root(DRAFT202012.create_resource(schema))
    pending: list[tuple[tuple[str, ...], Any, Any]] = [((), schema, resolver)]
    seen = {id(schema)}
    leads: dict[int, tuple[int, str]] = {}
    for place, part, outer in pending:
        inner = outer.in_subresource(DRAFT202012.create_resource(part)) if place and "$id" in part else outer
        for keyword in (keyword for keyword in _REFERENCES if keyword in part):
            where = ".".join((*place, keyword))[:_MOST_SHOWN]
            shown = f'"{part[keyword][:_MOST_SHOWN]}"'
            try:
                found = inner.lookup(part[keyword])
            except (Unresolvable, LookupError, TypeError, ValueError, AttributeError):
                return f"{where}: there is no {shown}"
            target = found.contents
            if isinstance(target, Mapping) and id(target) not in seen:
                if error := schema_error(target):
                    return f"{where}: {shown} is not a valid JSON schema: {error}"
                seen.add(id(target))
                pending.append(((*place, keyword), target, found.resolver))
            elif not isinstance(target, Mapping | bool):
                return f"{where}: {shown} is not a JSON schema"
            leads[id(part)] = (id(target), f"{where}: {shown}")
        for name, one in parts_of(part):
            if id(one) not in seen:
                seen.add(id(one))
                pending.append(((*place, *name), one, inner))
    return _circle(leads)


def _circle(leads: Mapping[int, tuple[int, str]]) -> str:
    """Return what is said of a reference that leads through references alone to where it stands; "" without one."""
    done: set[int] = set()
    for start in leads:
        path: set[int] = set()
        at = start
        while at in leads and at not in done:
            if at in path:
                return f"{leads[at][1]} leads back to itself"
            path.add(at)
            at = leads[at][0]
        done |= path
    return ""
