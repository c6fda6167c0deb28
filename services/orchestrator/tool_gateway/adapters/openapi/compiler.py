"""Makes tools of the operations of an OpenAPI document: a schema of arguments, and where each argument goes.

What it returns is JSON, as it comes from another process.
"""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from jsonschema import Draft202012Validator, SchemaError

from services.orchestrator.http_operations import is_of_caller_or_connection, overrides_method
from services.orchestrator.tool_gateway.adapters.openapi.document import BadDocument, Node, load, resolve
from services.orchestrator.tool_gateway.adapters.openapi.schemas import ArgumentSchemas

MAX_TOOLS = 512
MAX_DESCRIPTION_BYTES = 4096
_MAX_TOOLS_BYTES = 8 * 1024 * 1024
_METHODS = ("get", "head", "post", "put", "patch", "delete")
_LOCATIONS = ("path", "query", "header")
_STYLES = {
    "path": ("simple", "label", "matrix"),
    "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
    "header": ("simple",),
}
_BODY = "body"
_FORM = "application/x-www-form-urlencoded"
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_SET_BY_GATEWAY = frozenset({"accept", "accept-encoding", "content-type"})
_TEMPLATE = re.compile(r"\{([^{}/]+)\}")


class _NotOffered(Exception):
    """An operation cannot be a tool; the text says why."""


def compile_document(text: str, operations: Sequence[str], idempotency_header: str = "") -> dict[str, Any]:
    """Return the tools of a document under `tools`: the chosen operations, or all that can be tools.

    Raises:
        BadDocument: it cannot be used, or a chosen operation cannot.
    """
    document = load(text)
    chosen = {_tool_name(name): name for name in operations}
    tools: dict[str, Node] = {}
    problems: dict[str, str] = {}
    for name, path, method, item, operation in _operations(document):
        if chosen and name not in chosen:
            problems[name] = ""
            continue
        try:
            tool = _tool(document, path, method, item, operation)
        except (_NotOffered, BadDocument) as error:
            problems[name] = str(error)
            continue
        if tools.setdefault(name, tool) is not tool:
            tools[name]["warnings"].append("another operation has the same id and is left out")
    for name, given in chosen.items():
        if name not in tools:
            raise BadDocument(_missing(name, given, problems))
    if len(tools) > MAX_TOOLS:
        raise BadDocument(f"the document has {len(tools)} operations, and a source {MAX_TOOLS} tools: choose some")
    for name, tool in tools.items():
        tool["name"] = name
        tool["idempotency_header"] = "" if tool["method"] in ("GET", "HEAD") else idempotency_header
    if len(json.dumps(tools)) > _MAX_TOOLS_BYTES:
        raise BadDocument(f"its tools take more than {_MAX_TOOLS_BYTES} bytes: choose some of its operations")
    return {"tools": list(tools.values())}


def _tool_name(given: str) -> str:
    return _UNSAFE.sub("_", given).strip("_")[:128]


def _missing(name: str, given: str, problems: dict[str, str]) -> str:
    if name in problems:
        return f"the operation {given} cannot be a tool: {problems[name]}"
    near = difflib.get_close_matches(name, problems, n=3)
    return f"the document has no operation {given}" + (f"; near to it are {', '.join(near)}" if near else "")


def _operations(document: Node) -> Iterator[tuple[str, str, str, Node, Node]]:
    """Yield the name, path, method, path item and operation of all operations."""
    paths = document.get("paths", {})
    if not isinstance(paths, dict):
        raise BadDocument("paths has to be an object")
    for path, given in paths.items():
        item = resolve(document, given)
        if not isinstance(item, dict) or not path.startswith("/"):
            continue
        for method in _METHODS:
            operation = item.get(method)
            if isinstance(operation, dict):
                given_name = operation.get("operationId")
                name = given_name if isinstance(given_name, str) and given_name else f"{method}_{path}"
                yield _tool_name(name) or method, path, method, item, operation


def _tool(document: Node, path: str, method: str, item: Node, operation: Node) -> Node:
    schemas = ArgumentSchemas(document)
    names: set[str] = set()
    properties: Node = {}
    required: list[str] = []
    bindings: list[Node] = []
    for parameter in _parameters(document, item, operation):
        binding = _binding(parameter, schemas, names)
        if binding is None:
            continue
        converted = schemas.convert(_parameter_schema(document, parameter))
        properties[binding["argument"]] = _described(converted, parameter.get("description"))
        if binding["required"]:
            required.append(binding["argument"])
        bindings.append(binding)
    body = _body(document, operation, method, schemas, names, properties, required)
    _check_path(path, bindings)
    definitions = schemas.definitions()
    schema: Node = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    if definitions:
        schema["$defs"] = definitions
    _check_schema(schema)
    return {
        "title": _text(operation.get("summary"))[:256],
        "description": _description(method, path, operation),
        "method": method.upper(),
        "path": path,
        "schema": schema,
        "bindings": bindings,
        "body": body,
        "warnings": schemas.warnings,
    }


def _parameters(document: Node, item: Node, operation: Node) -> list[Node]:
    """Return the parameters of an operation; its own take the place of those of its path."""
    found: dict[tuple[str, str], Node] = {}
    for owner in (item, operation):
        given = owner.get("parameters") or []
        for entry in given if isinstance(given, list) else []:
            parameter = resolve(document, entry)
            if not isinstance(parameter, dict) or not isinstance(parameter.get("name"), str):
                raise _NotOffered("a parameter has no name")
            found[str(parameter.get("in")), parameter["name"]] = parameter
    return list(found.values())


def _binding(parameter: Node, schemas: ArgumentSchemas, names: set[str]) -> Node | None:
    """Return where an argument goes, or None for a parameter that is left out."""
    name, location = parameter["name"], str(parameter.get("in"))
    required = parameter.get("required") is True or location == "path"
    if location == "header" and (name.lower() in _SET_BY_GATEWAY or is_of_caller_or_connection(name)):
        # OpenAPI ignores some of them, and the others are the source's to set.
        return None
    problem = ""
    style = parameter.get("style") or ("form" if location == "query" else "simple")
    if overrides_method(name):
        problem = f"{name[:64]} would make it another request than the operation says"
    elif location not in _LOCATIONS:
        problem = f"{name} is a parameter in {location}, which tools do not send"
    elif style not in _STYLES[location]:
        problem = f"the style {style} of {name} is not one of {location} parameters"
    elif location == "header" and not _HEADER_NAME.fullmatch(name):
        problem = f"{name[:64]} cannot be the name of a header"
    if problem and required:
        raise _NotOffered(problem)
    if problem:
        schemas.warnings.append(f"{problem}; it is left out")
        return None
    explode = parameter.get("explode")
    return {
        "argument": _argument(name, location, names),
        "name": name,
        "in": location,
        "style": style,
        "explode": explode if isinstance(explode, bool) else style == "form",
        "reserved": parameter.get("allowReserved") is True,
        "required": required,
        "json": isinstance(parameter.get("content"), dict),
    }


def _argument(name: str, location: str, names: set[str]) -> str:
    """Return a name that models accept and no other argument has."""
    wanted = _UNSAFE.sub("_", name)[:60] or location
    found, number = wanted, 1
    while found in names:
        number += 1
        found = f"{wanted}_{location}" if number == 2 else f"{wanted}_{location}_{number}"
    names.add(found)
    return found


def _parameter_schema(document: Node, parameter: Node) -> Any:
    content = parameter.get("content")
    if isinstance(content, dict):
        media = resolve(document, next(iter(content.values()), {}))
        return media.get("schema", {}) if isinstance(media, dict) else {}
    return parameter.get("schema", {})


def _described(schema: Any, description: Any) -> Any:
    text = _text(description)
    return {**schema, "description": text[:1024]} if text and isinstance(schema, dict) else schema


def _body(
    document: Node,
    operation: Node,
    method: str,
    schemas: ArgumentSchemas,
    names: set[str],
    properties: Node,
    required: list[str],
) -> Node | None:
    """Add the argument for the body, and return how it is sent; None: there is none."""
    given = resolve(document, operation.get("requestBody"))
    if not isinstance(given, dict) or method in ("get", "head"):
        return None
    content = given.get("content")
    media_types = content if isinstance(content, dict) else {}
    needed = given.get("required") is True
    chosen = _media_type(media_types)
    if chosen is None:
        if needed:
            raise _NotOffered(f"its body is taken as {', '.join(media_types) or 'nothing'} only")
        schemas.warnings.append("its optional body is left out: no media type of it can be sent")
        return None
    name, media_type = chosen
    media = resolve(document, media_types[name])
    schema = schemas.convert(media.get("schema", {})) if isinstance(media, dict) else {}
    argument = _argument(_BODY, "content", names)
    properties[argument] = _described(schema, given.get("description"))
    if needed:
        required.append(argument)
    return {"argument": argument, "media_type": media_type, "required": needed}


def _media_type(media_types: Node) -> tuple[str, str] | None:
    """Return the media type a body is sent as, by its name in the document and as a header; None: none is possible."""
    by_type = {name.partition(";")[0].strip().lower(): name for name in media_types}
    json_types = [media for media in by_type if media == "application/json" or media.endswith("+json")]
    for media in sorted(json_types, key=lambda media: media != "application/json"):
        return by_type[media], media
    for media in (_FORM, "text/plain"):
        if media in by_type:
            return by_type[media], media
    return (by_type["*/*"], "application/json") if "*/*" in by_type else None


def _check_schema(schema: Node) -> None:
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = "/".join(str(step) for step in error.absolute_path)
        raise _NotOffered(f"its schema is not valid at {where[:200]}") from None


def _check_path(path: str, bindings: list[Node]) -> None:
    given = {binding["name"] for binding in bindings if binding["in"] == "path"}
    wanted = set(_TEMPLATE.findall(path))
    if wanted != given:
        odd = ", ".join(sorted(wanted ^ given))
        raise _NotOffered(f"its path and its parameters disagree about {odd}")
    if re.search(r"[?#\s\\]", path) or any(step in (".", "..") for step in path.split("/")):
        raise _NotOffered("its path cannot be an address")


def _description(method: str, path: str, operation: Node) -> str:
    summary, details = _text(operation.get("summary")), _text(operation.get("description"))
    text = "\n\n".join(part for part in dict.fromkeys((summary, details)) if part) or f"{method.upper()} {path}"
    return text.encode(errors="replace")[:MAX_DESCRIPTION_BYTES].decode(errors="ignore")


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""
