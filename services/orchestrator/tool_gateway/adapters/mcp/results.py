"""Results of tools: what the model reads, what is kept as files, and whether they are what the tool promised."""

import asyncio
import base64
import binascii
import json
import mimetypes
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from services.common.schema_checks.checker import SchemaChecker
from services.orchestrator.tool_gateway.adapters.mcp.endpoint import AnswerTooLarge
from services.orchestrator.tool_gateway.adapters.mcp.faults import HttpRefusal, RpcError
from services.orchestrator.tool_gateway.adapters.mcp.tools import McpTool
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent, OutcomeUnknown, StoredFile, ToolResult

MAX_LINKS = 5
_MAX_FILES = 20
_MAX_BLOCKS = 10_000
_MAX_TWIN_CHARACTERS = 1_000_000
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,80}/[A-Za-z0-9!#$&^_.+-]{1,80}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_DEFAULT_TYPE = "application/octet-stream"

ReadResource = Callable[[str], Awaitable[dict[str, Any]]]


async def tool_result(
    result: Mapping[str, Any], tool: McpTool, checker: SchemaChecker, group_id: str, read_resource: ReadResource
) -> ToolResult:
    """Return a server's result as models and people get it.

    `read_resource` reads what the result links to, from the same server.
    """
    content = result.get("content")
    contents = _Contents(tool.listed.name, read_resource)
    await contents.take(content if isinstance(content, list) else [])
    is_error = result.get("isError") is True
    structured = result.get("structuredContent")
    files = tuple(contents.files)
    shown = "" if structured is None else await asyncio.to_thread(_json, structured)
    fault = "" if is_error else await _fault(shown, tool, checker, group_id)
    if fault:
        return ToolResult(
            f"{fault} What it returned: {shown or contents.text()}", structured, is_error=True, files=files
        )
    if structured is None:
        return ToolResult(contents.text(), is_error=is_error, files=files)
    others = contents.text(without=shown, texts=tool.listed.output_schema is None)
    return ToolResult("\n".join(filter(None, [shown, others])), structured, is_error, files)


async def _fault(shown: str, tool: McpTool, checker: SchemaChecker, group_id: str) -> str:
    """Say where a result is not what the tool's output schema promises; empty where it is, or cannot be checked."""
    schema = tool.listed.output_schema
    if schema is None:
        return ""
    if not shown:
        return f'The call was made, but "{tool.listed.name}" has an output schema and returned no structured result.'
    checked = await checker.check(group_id, schema, shown)
    if not checked.violations:
        return ""
    return (
        f'The call was made, but the result of "{tool.listed.name}" does not follow its output schema: '
        f"{'; '.join(checked.violations)}."
    )


def _json(value: Any) -> str:
    # Piece by piece: the encoder written in C would not let another thread run before it is done.
    return "".join(json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).iterencode(value))


class _Contents:
    """The blocks of a result, sorted into text and files."""

    def __init__(self, tool: str, read_resource: ReadResource) -> None:
        self._tool = _UNSAFE.sub("-", tool)[:60] or "tool"
        self._read_resource = read_resource
        self._blocks: list[tuple[str, bool]] = []
        self._links = 0
        self.files: list[StoredFile] = []

    def text(self, *, without: str = "", texts: bool = True) -> str:
        """Return the text, without what says the same as the JSON `without`; with `texts` false only the rest."""
        return "\n".join(
            block
            for block, is_plain in self._blocks
            if not is_plain or (texts and not (without and _is_twin(block, without)))
        )

    async def take(self, content: list[Any]) -> None:
        """Take the blocks of a result."""
        for block in content[:_MAX_BLOCKS]:
            if isinstance(block, dict):
                await self._take(block)
        if len(content) > _MAX_BLOCKS:
            self._note(f"{len(content) - _MAX_BLOCKS} more blocks were left out")

    async def _take(self, block: Mapping[str, Any]) -> None:
        kind = block.get("type")
        if kind == "text":
            self._blocks.append((_text(block.get("text")), True))
        elif kind in ("image", "audio"):
            self._file(str(kind), block.get("data"), block.get("mimeType"), "")
        elif kind == "resource" and isinstance(block.get("resource"), dict):
            self._resource(block["resource"])
        elif kind == "resource_link":
            await self._link(block)
        else:
            self._note(f'a block of type "{str(kind)[:50]}" was left out')

    async def _link(self, block: Mapping[str, Any]) -> None:
        uri, name = _text(block.get("uri")), _text(block.get("name"))
        self._links += 1
        if not uri or len(uri) > 4096 or self._links > MAX_LINKS:
            self._note(f"not read: {name or 'a resource'} at {uri[:1000]}")
            return
        try:
            read = await self._read_resource(uri)
        except (RpcError, NotSent, CallRefused, OutcomeUnknown, HttpRefusal, AnswerTooLarge, TimeoutError) as error:
            self._note(f"not read: {uri[:1000]}: {str(error)[:300] or 'no answer'}")
            return
        contents = read.get("contents")
        for resource in contents[:MAX_LINKS] if isinstance(contents, list) else []:
            if isinstance(resource, dict):
                self._resource({"uri": uri, **resource})

    def _resource(self, resource: Mapping[str, Any]) -> None:
        uri = _text(resource.get("uri"))[:1000]
        if isinstance(resource.get("text"), str):
            self._blocks.append((f"[{uri}]\n{resource['text']}", False))
        else:
            self._file("file", resource.get("blob"), resource.get("mimeType"), uri)

    def _file(self, kind: str, data: Any, media_type: Any, uri: str) -> None:
        if len(self.files) >= _MAX_FILES:
            self._note(f"a file was left out: a result has at most {_MAX_FILES}")
            return
        try:
            content = base64.b64decode(data if isinstance(data, str) else "", validate=True)
        except (binascii.Error, ValueError):
            self._note(f"a block of type {kind} was left out: it is not base64")
            return
        is_type = isinstance(media_type, str) and _MEDIA_TYPE.fullmatch(media_type.partition(";")[0].strip())
        media = str(media_type).partition(";")[0].strip().lower() if is_type else _DEFAULT_TYPE
        # The model is told of it under the name that it is stored by.
        self.files.append(StoredFile(self._file_name(kind, media, uri), media, content))

    def _file_name(self, kind: str, media_type: str, uri: str) -> str:
        try:
            path = urlsplit(uri).path
        except ValueError:
            path = ""
        given = _UNSAFE.sub("-", path.rpartition("/")[2]).strip(".-")[-80:]
        base = given or f"{self._tool}-{kind}{mimetypes.guess_extension(media_type) or ''}"
        taken = {file.name for file in self.files}
        stem, dot, ending = base.rpartition(".")
        names = (
            base,
            *(f"{stem}-{number}.{ending}" if dot and stem else f"{base}-{number}" for number in range(2, 100)),
        )
        return next(name for name in names if name not in taken)

    def _note(self, text: str) -> None:
        self._blocks.append((f"[{text}]", False))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _is_twin(text: str, shown: str) -> bool:
    """Whether a text is the structured result once more, however it is spaced."""
    if not len(shown) <= len(text) <= 4 * len(shown) + 1000 or len(text) > _MAX_TWIN_CHARACTERS:
        return False
    return "".join(text.split()) == "".join(shown.split())
