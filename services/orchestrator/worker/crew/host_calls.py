"""The host as one attempt at a task sees it: everything it may ask for."""

from collections.abc import Callable, Iterable

from coxswain.memory.v1 import memory_pb2
from coxswain.models.v1 import inference_pb2
from coxswain.orchestrator.v1 import execution_pb2
from coxswain.orchestrator.worker.link_pb2 import (
    BeginTool,
    CallTool,
    Complete,
    CrewRequest,
    EndTool,
    HostReply,
    ToolAnswer,
    ToolPermission,
)
from services.common.storable import storable

_MOST_TOLD = 4096


class HostCalls:
    """Every method that returns something raises HookAborted when the task has to end, and TaskError when the host
    replied with an error that may pass. Memory requests but `search_knowledge` need no namespace.
    """

    def __init__(self, ask: Callable[[CrewRequest], HostReply], notify: Callable[[CrewRequest], object]) -> None:
        """`ask` returns the reply to a request, `notify` waits for none."""
        self._ask = ask
        self._notify = notify

    def complete(self, request: Complete) -> inference_pb2.CompleteResponse:
        """Return the model's answer: its text or the tools it calls."""
        return self._ask(CrewRequest(complete=request)).complete

    def embed(self, model: str, texts: Iterable[str]) -> list[list[float]]:
        """Return a vector of unit length for each text; an empty `model` means the installation's default."""
        request = inference_pb2.EmbedRequest(model=model, texts=map(storable, texts))
        return [list(embedding.values) for embedding in self._ask(CrewRequest(embed=request)).embed.embeddings]

    def save_records(self, request: memory_pb2.SaveRecordsRequest) -> list[str]:
        """Save memories and return their ids, in their order."""
        return list(self._ask(CrewRequest(save_records=request)).save_records.ids)

    def search_records(self, request: memory_pb2.SearchRecordsRequest) -> memory_pb2.SearchRecordsResponse:
        """Return all memories found, best first; `limit` may be any number."""
        return self._ask(CrewRequest(search_records=request)).search_records

    def search_knowledge(self, request: memory_pb2.SearchRecordsRequest) -> memory_pb2.SearchRecordsResponse:
        """Return the records found in a namespace that the crew's knowledge names, best first."""
        return self._ask(CrewRequest(search_knowledge=request)).search_knowledge

    def get_record(self, request: memory_pb2.GetRecordRequest) -> memory_pb2.GetRecordResponse:
        """Return a memory, or a response without one if there is none of that id."""
        return self._ask(CrewRequest(get_record=request)).get_record

    def list_records(self, request: memory_pb2.ListRecordsRequest) -> memory_pb2.ListRecordsResponse:
        """Return the newest memories, newest first; `page_size` may be any number."""
        return self._ask(CrewRequest(list_records=request)).list_records

    def delete_records(self, request: memory_pb2.DeleteRecordsRequest) -> int:
        """Remove memories and return how many there were."""
        return self._ask(CrewRequest(delete_records=request)).delete_records.deleted

    def count_records(self, request: memory_pb2.CountRecordsRequest) -> int:
        """Return how many memories match."""
        return self._ask(CrewRequest(count_records=request)).count_records.count

    def touch_records(self, ids: Iterable[str], source: str) -> None:
        """Note that memories were found by a source just now, without waiting for it."""
        self._notify(CrewRequest(touch_records=memory_pb2.TouchRecordsRequest(ids=ids, source=source)))

    def list_scopes(self, parent: str) -> list[str]:
        """Return the scopes directly below another."""
        request = memory_pb2.ListScopesRequest(parent=parent)
        return [scope.path for scope in self._ask(CrewRequest(list_scopes=request)).list_scopes.scopes]

    def get_scope(self, path: str) -> memory_pb2.ScopeInfo:
        """Return the figures of a scope and all below it."""
        request = memory_pb2.GetScopeRequest(path=path)
        return self._ask(CrewRequest(get_scope=request)).get_scope.scope

    def list_categories(self, scope_prefix: str) -> dict[str, int]:
        """Return how many memories each category has."""
        request = memory_pb2.ListCategoriesRequest(scope_prefix=scope_prefix)
        return dict(self._ask(CrewRequest(list_categories=request)).list_categories.counts)

    def begin_tool(self, key: str, tool: str, *, idempotent: bool) -> ToolPermission:
        """Return whether a tool call may run, or its result from an earlier attempt."""
        request = BeginTool(key=key, tool=tool, idempotent=idempotent)
        return self._ask(CrewRequest(begin_tool=request)).begin_tool

    def end_tool(self, key: str, tool: str, *, idempotent: bool, output: str, error: str, argument_bytes: int) -> None:
        """Journal the outcome of a tool call."""
        request = EndTool(
            key=key,
            tool=tool,
            idempotent=idempotent,
            output=storable(output),
            error=storable(error),
            argument_bytes=argument_bytes,
        )
        self._ask(CrewRequest(end_tool=request))

    def call_tool(self, request: CallTool) -> ToolAnswer:
        """Have the host call a tool, and return what the model reads of it."""
        request.agent_role, request.agent_text = storable(request.agent_role), storable(request.agent_text)[:_MOST_TOLD]
        return self._ask(CrewRequest(call_tool=request)).call_tool

    def guardrail_refused(self, fields: Iterable[str], message: str) -> None:
        """Have an event stored, without waiting for it."""
        event = execution_pb2.GuardrailRefused(fields=fields, message=storable(message)[:_MOST_TOLD])
        self._notify(CrewRequest(guardrail_refused=event))

    def tool_call_started(self, call_id: str, tool: str, arguments: str) -> None:
        """Have an event stored, without waiting for it."""
        event = execution_pb2.ToolCallStarted(
            call_id=call_id, tool_name=storable(tool), arguments_json=storable(arguments)
        )
        self._notify(CrewRequest(tool_call_started=event))

    def tool_call_completed(self, call_id: str, tool: str, output: str) -> None:
        """Have an event stored, without waiting for it."""
        event = execution_pb2.ToolCallCompleted(call_id=call_id, tool_name=storable(tool), output=storable(output))
        self._notify(CrewRequest(tool_call_completed=event))

    def tool_call_failed(self, call_id: str, tool: str, message: str) -> None:
        """Have an event stored, without waiting for it."""
        event = execution_pb2.ToolCallFailed(call_id=call_id, tool_name=storable(tool), message=storable(message))
        self._notify(CrewRequest(tool_call_failed=event))
