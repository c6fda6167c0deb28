"""A tool that reads on in a result that was too long for the model."""

from collections.abc import Awaitable, Callable

from services.orchestrator.worker.host.host_tools.base import HostToolCall, HostToolError

PAGE_CHARACTERS = 50_000


class ReadResult:
    """Returns a page of an earlier result of the same execution."""

    def __init__(self, read: Callable[[str], Awaitable[str | None]]) -> None:
        """`read` returns the whole result of a call by its id."""
        self._read = read

    async def call(self, call: HostToolCall) -> str:
        """See `HostTool`."""
        handle, start = call.arguments["handle"], int(call.arguments.get("start", 0))
        result = await self._read(handle)
        if result is None:
            raise HostToolError("there is no result of that handle; copy it from the end of a result that was cut off")
        page = call.page(result[start : start + PAGE_CHARACTERS])
        if not page:
            raise HostToolError(f"the result has {len(result):,} characters; begin at a lower one")
        end = start + len(page)
        if end < len(result):
            return f"{page}\n[The result goes on: call again with start {end} for what comes next.]"
        return page
