"""Serves the calls of a crew process on behalf of its execution."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from coxswain.memory.v1 import memory_service_pb2_grpc
from coxswain.models.v1 import inference_service_pb2_grpc
from coxswain.orchestrator.v1 import tool_gateway_service_pb2_grpc
from coxswain.orchestrator.worker.link_pb2 import CrewRequest, HostReply
from services.common.errors import CoxswainError
from services.common.tracing.spans import within
from services.orchestrator.worker.host.activity import Activity
from services.orchestrator.worker.host.memory_calls import MemoryCalls
from services.orchestrator.worker.host.metrics import CALLS
from services.orchestrator.worker.host.model_calls import ModelCalls
from services.orchestrator.worker.host.remote_calls import RemoteCalls
from services.orchestrator.worker.host.task_journal import TaskJournal
from services.orchestrator.worker.host.tool_calls import ToolCalls
from services.orchestrator.worker.link.errors import TaskError

_BEARABLE_REASONS = frozenset(
    {
        "UPSTREAM_RATE_LIMITED",
        "UPSTREAM_UNAVAILABLE",
        "UPSTREAM_BAD_RESPONSE",
        "DEPENDENCY_UNAVAILABLE",
        "OVERLOADED",
        "SHUTTING_DOWN",
        "INTERNAL",
        # Of memories that another execution has changed in between.
        "REVISION_MISMATCH",
    }
)
"""Without what else it asks for than answers of its model, an agent may do; after anything else its task ends."""


@dataclass(frozen=True, slots=True)
class Stubs:
    """The services crew processes reach through their host."""

    inference: "inference_service_pb2_grpc.InferenceServiceAsyncStub"
    memory: "memory_service_pb2_grpc.MemoryServiceAsyncStub"
    tools: "tool_gateway_service_pb2_grpc.ToolGatewayServiceAsyncStub"
    tools_ready: Callable[[], Awaitable[object]]
    """Returns once the tool gateway can be reached."""


class CrewCalls:
    """Serves the crew process of one claimed execution.

    What it raises but TaskError concerns the whole execution: Fenced, CredentialExpired.
    """

    def __init__(
        self, models: ModelCalls, memory: MemoryCalls, tools: ToolCalls, remote: RemoteCalls, activity: Activity
    ) -> None:
        self._models = models
        self._remote = remote
        self._memory = memory
        self._tools = tools
        self._activity = activity
        self._journals: dict[int, TaskJournal] = {}

    def begin_task(self, index: int, journal: TaskJournal) -> None:
        """Serve calls of an attempt at a task from now on."""
        self._journals[index] = journal
        self._tools.begin_task(index)

    async def serve(self, request: CrewRequest) -> HostReply:
        """Answer one call of the crew process."""
        try:
            kind, journal = request.WhichOneof("request"), self._journals[request.task]
            with CALLS.labels(kind).track_inprogress(), self._activity.work(request.task), within(journal.span):
                return await self._serve(journal, request)
        except CoxswainError as error:
            if request.HasField("complete"):
                # The calls had all patience already, and an agent that tries again starts over. It can say less.
                fatal = error.reason != "CONTEXT_WINDOW_EXCEEDED" and not request.complete.dispensable
            else:
                fatal = error.reason not in _BEARABLE_REASONS
            raise TaskError(error.reason, error.message, fatal=fatal) from error

    async def _serve(self, journal: TaskJournal, request: CrewRequest) -> HostReply:  # noqa: C901
        models, memory, tools = self._models, self._memory, self._tools
        match request.WhichOneof("request"):
            case "complete":
                return HostReply(complete=await models.complete(journal, request.complete))
            case "embed":
                return HostReply(embed=await models.embed(journal, request.embed))
            case "save_records":
                return HostReply(save_records=await memory.save_records(request.save_records))
            case "search_records":
                return HostReply(search_records=await memory.search_records(request.search_records))
            case "search_knowledge":
                return HostReply(search_knowledge=await memory.search_knowledge(request.search_knowledge))
            case "get_record":
                return HostReply(get_record=await memory.get_record(request.get_record))
            case "list_records":
                return HostReply(list_records=await memory.list_records(request.list_records))
            case "delete_records":
                return HostReply(delete_records=await memory.delete_records(request.delete_records))
            case "count_records":
                return HostReply(count_records=await memory.count_records(request.count_records))
            case "touch_records":
                await memory.touch_records(request.touch_records)
            case "list_scopes":
                return HostReply(list_scopes=await memory.list_scopes(request.list_scopes))
            case "get_scope":
                return HostReply(get_scope=await memory.get_scope(request.get_scope))
            case "list_categories":
                return HostReply(list_categories=await memory.list_categories(request.list_categories))
            case "begin_tool":
                permission = await tools.begin_tool(journal, request.begin_tool)
                if not permission.done:
                    self._activity.begin(request.task)
                return HostReply(begin_tool=permission)
            case "end_tool":
                await tools.end_tool(journal, request.end_tool)
                self._activity.end(request.task)
            case "call_tool":
                return HostReply(call_tool=await self._remote.call(journal, request.call_tool))
            case "tool_call_started":
                tools.event(journal, request.tool_call_started)
            case "tool_call_completed":
                tools.event(journal, request.tool_call_completed)
            case "tool_call_failed":
                tools.event(journal, request.tool_call_failed)
            case "guardrail_refused":
                tools.event(journal, request.guardrail_refused)
        return HostReply()
