"""Whether the references of a JSON schema lead to schemas inside of it."""

from collections.abc import Iterator, Mapping
from typing import Any

from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from services.orchestrator.schemas.validity import parts_of, schema_error, values_in

_MOST_SHOWN = 100
_FOLLOWED = ("$ref", "$dynamicRef")
_REFERENCES = (*_FOLLOWED, "$recursiveRef")
_ON_THE_SPOT = frozenset({"allOf", "oneOf", "not", "if"})
"""What holds schemas that are always compared with the same value."""

_Leads = dict[int, list[tuple[int, str]]]
"""By a schema, those that are compared with the same value, and of references what is said of them."""


def outside_reference(schema: Mapping[str, Any]) -> str:
    """Return the beginning of the first reference of a schema that leads out of it; empty if none does."""
    return next((target[:_MOST_SHOWN] for target in _references(schema) if not target.startswith("#")), "")


def _references(schema: Mapping[str, Any]) -> Iterator[str]:
    for item in values_in(schema):
        if isinstance(item, Mapping):
            yield from (target for name in _REFERENCES if isinstance(target := item.get(name), str))


def reference_error(schema: Mapping[str, Any]) -> str:
    """Return what is wrong with the first reference of a schema that leads out of it, to no schema, or back to itself
    with the same value; "" when there is none.

    `schema_error` has accepted the schema. Example: 'properties.a.$ref: there is no "#/$defs/none"'.
    """
    if outside := outside_reference(schema):
        return f'refers to "{outside}" outside of itself; put it into $defs'
    resolver = Registry().resolver_with_root(DRAFT202012.create_resource(schema))
    pending: list[tuple[tuple[str, ...], Any, Any]] = [((), schema, resolver)]
    seen = {id(schema)}
    leads: _Leads = {}
    for place, part, outer in pending:
        inner = outer
        if place and "$id" in part:
            try:
                inner = outer.in_subresource(DRAFT202012.create_resource(part))
            except (TypeError, ValueError, AttributeError):
                return f"{'.'.join(place)[:_MOST_SHOWN]}.$id: is no URI"
        for keyword in (keyword for keyword in _FOLLOWED if keyword in part):
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
            leads.setdefault(id(part), []).append((id(target), f"{where}: {shown}"))
        for name, one in parts_of(part):
            # Of anyOf the others are compared where the first one does not hold.
            if name[0] in _ON_THE_SPOT or name == ("anyOf", "0"):
                leads.setdefault(id(part), []).append((id(one), ""))
            if id(one) not in seen:
                seen.add(id(one))
                pending.append(((*place, *name), one, inner))
    return _circle(leads)


def _circle(leads: _Leads) -> str:
    """Return what is said of a reference by which a schema is compared with the same value again; "" without one."""
    done: set[int] = set()
    for start in leads:
        path: dict[int, str] = {}
        """The schemas that lead here, each with what is said of how it led on."""
        ways = [(start, iter(leads[start]))]
        while ways and start not in done:
            at, rest = ways[-1]
            path.setdefault(at, "")
            target, text = next(rest, (None, ""))
            if target is None:
                done.add(at)
                ways.pop()
                path.pop(at)
                continue
            path[at] = text
            if target in path:
                circle = [*path.values()][[*path].index(target) :]
                return f"{next(filter(None, circle))} leads back to itself"
            if target in leads and target not in done:
                ways.append((target, iter(leads[target])))
    return ""
