"""The tools of a host, for one execution."""

from collections.abc import Awaitable, Callable, Mapping

from services.orchestrator.worker.host.execution_files import ExecutionFiles
from services.orchestrator.worker.host.execution_memory import ExecutionMemory
from services.orchestrator.worker.host.host_tools.base import HostTool
from services.orchestrator.worker.host.host_tools.files import FileList, FileRead, FileWrite
from services.orchestrator.worker.host.host_tools.memory import DocumentSearch, MemorySearch
from services.orchestrator.worker.host.host_tools.people import AskPerson
from services.orchestrator.worker.host.host_tools.results import ReadResult


def host_tools(
    files: ExecutionFiles, memory: ExecutionMemory, read_result: Callable[[str], Awaitable[str | None]]
) -> Mapping[str, HostTool]:
    """Return every tool of the host by its name; `read_result` returns the whole result of a call by its id."""
    return {
        "ask_person": AskPerson(),
        "document_search": DocumentSearch(memory.named, memory.agents_of),
        "file_list": FileList(files),
        "file_read": FileRead(files),
        "file_write": FileWrite(files),
        "memory_search": MemorySearch(memory.own, memory.recall),
        "read_result": ReadResult(read_result),
    }
