"""Loads an OpenAPI document, JSON or YAML, within bounds, and follows references inside it."""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import yaml

MAX_DOCUMENT_BYTES = 2 * 1024 * 1024
_MAX_NODES = 400_000
_MAX_DEPTH = 150
_MAX_HOPS = 32

Node = dict[str, Any]


class BadDocument(ValueError):
    """A document cannot be used; the text says why."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads the plain values of YAML 1.2: `no` is a text, and so is a date."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _form, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("merge", r"^(?:<<)$", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_form), list(_first))


def load(text: str) -> Node:
    """Return a document as JSON values only.

    Raises:
        BadDocument: it is too large, not JSON or YAML, or no OpenAPI 3.0 or 3.1.
    """
    if len(text.encode(errors="replace")) > MAX_DOCUMENT_BYTES:
        raise BadDocument(f"the document is larger than {MAX_DOCUMENT_BYTES} bytes")
    try:
        found = json.loads(text) if text.lstrip("\ufeff \t\r\n").startswith("{") else _yaml(text)
    except BadDocument:
        raise
    except RecursionError:
        raise BadDocument("the document is nested too deep") from None
    except (ValueError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else f" at line {error.lineno}" if hasattr(error, "lineno") else ""
        raise BadDocument(f"the document is not valid JSON or YAML{where}") from None
    _check_extent(found)
    try:
        document = json.loads(json.dumps(found, allow_nan=False))
    except (TypeError, ValueError):
        raise BadDocument("the document holds values that JSON does not know") from None
    version = str(document.get("openapi", "")) if isinstance(document, dict) else ""
    if not version.startswith(("3.0", "3.1")):
        raise BadDocument("the document is not OpenAPI 3.0 or 3.1: its field openapi has to say so")
    return dict(document)


def _yaml(text: str) -> Any:
    depth = 0
    # The composer, written in C, does not survive a text that is nested deep enough.
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        _check_depth(depth)
    return yaml.load(text, _Loader)  # noqa: S506 - it is a safe one


def _check_depth(depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise BadDocument(f"the document is nested deeper than {_MAX_DEPTH} levels")


def _check_extent(value: Any) -> None:
    """Count what a value holds with every alias written out: a small text may mean a huge tree, or an endless one."""
    pending = [(value, 0)]
    nodes = 0
    while pending:
        part, depth = pending.pop()
        nodes += 1
        if nodes > _MAX_NODES:
            raise BadDocument(f"the document holds more than {_MAX_NODES} values, its aliases written out")
        _check_depth(depth)
        if isinstance(part, dict):
            pending += [(member, depth + 1) for member in part.values()]
        elif isinstance(part, list):
            pending += [(member, depth + 1) for member in part]


def resolve(document: Node, node: Any) -> Any:
    """Return what a node is after its references.

    Raises:
        BadDocument: one leads out of the document, to nothing, or in a circle.
    """
    for _ in range(_MAX_HOPS):
        if not isinstance(node, Mapping) or not isinstance(node.get("$ref"), str):
            return node
        node = at_reference(document, node["$ref"])
    raise BadDocument("a reference leads in a circle")


def at_reference(document: Node, reference: str) -> Any:
    """Return the node that a reference names.

    Raises:
        BadDocument: it leads out of the document or to nothing.
    """
    if not reference.startswith("#"):
        raise BadDocument(f"{reference[:200]} leads out of the document: references have to begin with #")
    node: Any = document
    for step in unquote(reference[1:]).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict) and name in node:
            node = node[name]
        elif isinstance(node, list) and name.isascii() and name.isdigit() and int(name[:9]) < len(node):
            node = node[int(name[:9])]
        else:
            raise BadDocument(f"{reference[:200]} leads to nothing")
    return node
