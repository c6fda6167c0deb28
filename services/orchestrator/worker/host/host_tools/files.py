"""Tools that write and read the files of the execution."""

from services.common.storable import storable
from services.orchestrator.domain.artifact import BadFileName, file_name
from services.orchestrator.worker.host.execution_files import ExecutionFiles, FileRefused
from services.orchestrator.worker.host.host_tools.base import HostToolCall, HostToolError

PAGE_CHARACTERS = 50_000
_MOST_LISTED = 200


class FileWrite:
    """Stores a text as a file, or gives the file of that name another content."""

    def __init__(self, files: ExecutionFiles) -> None:
        self._files = files

    async def call(self, call: HostToolCall) -> str:
        """See `HostTool`."""
        content = storable(call.arguments["content"]).encode()
        try:
            stored, changed = await self._files.store(
                call.task, _name(call.arguments["name"]), content, call_id=call.call_id
            )
        except FileRefused as error:
            raise HostToolError(str(error)) from error
        if not changed:
            return f'"{stored.name}" has this content already'
        done = "stored" if stored.revision == 1 else "replaced the content of"
        return f'{done} "{stored.name}", {stored.size:,} bytes'


class FileRead:
    """Returns a page of a text file."""

    def __init__(self, files: ExecutionFiles) -> None:
        self._files = files

    async def call(self, call: HostToolCall) -> str:
        """See `HostTool`."""
        name, start = _name(call.arguments["name"]), int(call.arguments.get("start", 0))
        try:
            page = await self._files.read_text(name, start, PAGE_CHARACTERS)
        except UnicodeDecodeError:
            raise HostToolError(f'"{name}" is no text in UTF-8 and cannot be read') from None
        if page is None:
            known = [one.name for one in await self._files.list()]
            raise HostToolError(f'there is no file "{name}"; {_listed(known)}')
        if not page.text and start:
            raise HostToolError(f'"{name}" ends before character {start}; begin at a lower one')
        text = call.page(page.text)
        if page.more or len(text) < len(page.text):
            return f"{text}\n[The file goes on: call again with start {start + len(text)} for what comes next.]"
        return text


class FileList:
    """Lists the files of the execution."""

    def __init__(self, files: ExecutionFiles) -> None:
        self._files = files

    async def call(self, call: HostToolCall) -> str:
        """See `HostTool`."""
        found = await self._files.list(call.arguments.get("prefix", ""))
        if not found:
            return "there are no files"
        lines = [f"{one.name} ({one.media_type}, {one.size:,} bytes)" for one in found[:_MOST_LISTED]]
        if len(found) > _MOST_LISTED:
            lines.append(f"and {len(found) - _MOST_LISTED} more: ask for those of a directory by its name as prefix")
        return "\n".join(lines)


def _name(text: str) -> str:
    try:
        return file_name(text.removeprefix("./"))
    except BadFileName as error:
        raise HostToolError(str(error)) from None


def _listed(names: list[str]) -> str:
    if not names:
        return "there are no files yet"
    shown = ", ".join(names[:20])
    return f"the files are: {shown}{', ...' if len(names) > 20 else ''}"
