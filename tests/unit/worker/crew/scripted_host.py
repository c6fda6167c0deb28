"""The host's side of a crew process, answering from a script instead of from services."""

import asyncio
import hashlib
import itertools
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from coxswain.memory.v1 import memory_pb2
from coxswain.memory.v1.record_pb2 import Record
from coxswain.models.v1.inference_pb2 import (
    CompleteResponse,
    Embedding,
    EmbedRequest,
    EmbedResponse,
    Thinking,
    ToolCall,
)
from coxswain.models.v1.model_pb2 import Capabilities, Model
from coxswain.orchestrator.worker.link_pb2 import (
    BeginTool,
    CrewRequest,
    EarlierTask,
    EndTool,
    HostReply,
    OpenSession,
    RunTask,
    ToolPermission,
)
from services.common.grpc.json_values import to_value
from services.orchestrator.domain.crew import CrewSpec, TaskSpec
from services.orchestrator.domain.execution import TaskOutput
from services.orchestrator.domain.tool import ResolvedTool
from services.orchestrator.domain.tool_sets import tool_sets
from services.orchestrator.messages.crews import spec_to_proto
from services.orchestrator.messages.executions import output_from_proto, output_to_proto
from services.orchestrator.tool_resolver import resolve_tools
from services.orchestrator.worker.host.agent_tools import AgentTools
from services.orchestrator.worker.host.crew_process import CrewProcess, ForkServer
from services.orchestrator.worker.host.model_messages import canonical_request

Json = dict[str, Any]
Reply = Callable[[Any], Any]

CAPABLE = Capabilities(tools=True, json_schema=True)
PLAIN = Capabilities()


def text_of(message: Json) -> str:
    """Return what a message says, material and instructions alike."""
    return "".join(next(iter(part.values())) for part in message.get("content", []))


def said(request: Json) -> str:
    """Return everything a request says."""
    return "\n".join(text_of(message) for message in request["messages"])


def answer(text: str) -> Json:
    return {"text": text, "tool_calls": []}


def tool_call(name: str, arguments: Mapping[str, Any], call_id: str = "call-1") -> Json:
    return {"text": "", "tool_calls": [{"id": call_id, "name": name, "arguments": json.dumps(arguments)}]}


def echo(request: Json) -> Json:
    """Answer differently to different requests, and alike to equal ones."""
    digest = hashlib.sha256(said(request).encode()).hexdigest()[:8]
    return answer(f"Answer {digest}.")


class ScriptedHost:
    """Answers a crew process.

    `complete` answers model calls, which it gets as JSON; `handlers` answers requests of other names with messages.
    """

    def __init__(self, complete: Reply = echo, handlers: Mapping[str, Reply] | None = None) -> None:
        self.handlers: dict[str, Reply] = {
            "complete": complete,
            "embed": self._embed,
            "begin_tool": self._begin_tool,
            "end_tool": self._end_tool,
            "save_records": self._save,
            "delete_records": self._delete,
            "list_records": self._list,
            "get_record": self._get,
            "search_records": self._search,
            **(handlers or {}),
        }
        self.log: list[tuple[str, CrewRequest]] = []
        self.failures: list[BaseException] = []
        self.tool_journal: dict[str, dict[str, str]] = {}
        self.memories: list[Record] = []
        self._numbers = itertools.count()

    def calls(self, name: str) -> list[Any]:
        """Return the requests of that name."""
        return [getattr(request, name) for logged, request in self.log if logged == name]

    @property
    def requests(self) -> list[Json]:
        return [canonical_request(call.completion) for call in self.calls("complete")]

    async def handle(self, request: CrewRequest) -> HostReply:
        name = request.WhichOneof("request")
        assert name is not None
        self.log.append((name, request))
        handler = self.handlers.get(name)
        if handler is None:
            return HostReply()
        asked = getattr(request, name)
        result = handler(canonical_request(asked.completion) if name == "complete" else asked)
        if asyncio.iscoroutine(result):
            result = await result
        if name == "complete":
            result = _answer_to_proto(result)
        return HostReply() if result is None else HostReply(**{name: result})

    def _embed(self, request: EmbedRequest) -> EmbedResponse:
        return EmbedResponse(embeddings=[Embedding(values=bag_of_letters(text)) for text in request.texts])

    def _begin_tool(self, request: BeginTool) -> ToolPermission:
        known = self.tool_journal.get(request.key)
        return ToolPermission() if known is None else ToolPermission(done=True, **known)

    def _end_tool(self, request: EndTool) -> None:
        self.tool_journal[request.key] = {"output": request.output, "error": request.error}

    def _search(self, _: memory_pb2.SearchRecordsRequest) -> memory_pb2.SearchRecordsResponse:
        results = [memory_pb2.SearchResult(record=record, similarity=0.5) for record in self.memories]
        return memory_pb2.SearchRecordsResponse(results=results)

    def _get(self, request: memory_pb2.GetRecordRequest) -> memory_pb2.GetRecordResponse:
        return memory_pb2.GetRecordResponse(record=next((one for one in self.memories if one.id == request.id), None))

    def _delete(self, request: memory_pb2.DeleteRecordsRequest) -> memory_pb2.DeleteRecordsResponse:
        left = [record for record in self.memories if record.id not in request.ids]
        deleted, self.memories = len(self.memories) - len(left), left
        return memory_pb2.DeleteRecordsResponse(deleted=deleted)

    def _save(self, request: memory_pb2.SaveRecordsRequest) -> memory_pb2.SaveRecordsResponse:
        """Store records by their ids; those without touch the one of the same text and scope, if there is one."""
        ids = []
        for record in request.records:
            there = next((old for old in self.memories if _is_same(old, record)), None)
            if there is None:
                record.id = record.id or f"memory-{next(self._numbers)}"
                record.revision = 1
                self.memories.append(record)
            else:
                there.revision += 1
                if record.id:
                    there.MergeFrom(record)
            ids.append((there or record).id)
        return memory_pb2.SaveRecordsResponse(ids=ids)

    def _list(self, request: memory_pb2.ListRecordsRequest) -> memory_pb2.ListRecordsResponse:
        wanted = dict(request.filter.metadata)
        found = [
            record for record in self.memories if all(record.metadata.fields.get(k) == v for k, v in wanted.items())
        ]
        return memory_pb2.ListRecordsResponse(records=found[: request.page_size])


def _is_same(old: Record, new: Record) -> bool:
    if new.id:
        return old.id == new.id
    return (old.unified.content, old.unified.scope) == (new.unified.content, new.unified.scope)


def _answer_to_proto(answer: Json) -> CompleteResponse:
    calls = [
        ToolCall(
            id=call["id"],
            name=call["name"],
            arguments_json=call["arguments"],
            provider_state=call.get("provider_state", ""),
        )
        for call in answer["tool_calls"]
    ]
    thinking = [Thinking(text=text, provider_state=state) for text, state in answer.get("thinking", ())]
    return CompleteResponse(text=answer["text"], tool_calls=calls, thinking=thinking)


def bag_of_letters(text: str) -> list[float]:
    """A vector of unit length: texts with the same letters are alike."""
    counts = [float(text.lower().count(chr(ord("a") + index))) for index in range(26)]
    length = sum(count * count for count in counts) ** 0.5 or 1.0
    return [count / length for count in counts]


class Segment:
    """Runs tasks in one crew process, as a host would."""

    def __init__(self, process: CrewProcess, spec: CrewSpec) -> None:
        self.process = process
        self.spec = spec
        self.outputs: dict[int, TaskOutput] = {}

    async def task(self, index: int, **fields: Any) -> TaskOutput:
        """Do one task with the results it gets from those done before; `fields` are those of RunTask."""
        context = [
            EarlierTask(name=self.spec.tasks[earlier].name, output=output_to_proto(output))
            for earlier, output in sorted(self.outputs.items())
            if self.spec.tasks[earlier].name in context_of(self.spec, index)
        ]
        request = RunTask(attempt=1, context=context)
        request.MergeFrom(RunTask(**fields))
        output = self.outputs[index] = output_from_proto(await self.process.run_task(index, request))
        return output

    async def all(self) -> TaskOutput:
        """Do every task in order, one after the other, and return the last output."""
        return [await self.task(index) for index in range(len(self.spec.tasks))][-1]


def context_of(spec: CrewSpec, index: int) -> set[str]:
    task: TaskSpec = spec.tasks[index]
    if task.context is not None:
        return set(task.context)
    return set() if task.async_execution else {earlier.name for earlier in spec.tasks[:index]}


@asynccontextmanager
async def segment(
    server: ForkServer,
    host: ScriptedHost,
    spec: CrewSpec,
    *,
    inputs: Mapping[str, Any] | None = None,
    capabilities: Capabilities = CAPABLE,
    execution_id: str = "execution-1",
    started_at: datetime = datetime(2026, 1, 2, tzinfo=UTC),
    resolve: Callable[[CrewSpec], list[list[ResolvedTool]]] = lambda spec: [
        resolve_tools(specs, {}) for specs in tool_sets(spec)
    ],
) -> AsyncIterator[Segment]:
    """Open a crew process for a crew whose models are all `m`."""
    process = await server.fork(host.handle, host.failures.append)
    try:
        session = OpenSession(
            execution_id=execution_id,
            spec=spec_to_proto(spec),
            inputs={name: to_value(value) for name, value in (inputs or {}).items()},
            models=[Model(name="m", capabilities=capabilities)],
        )
        session.start_time.FromDatetime(started_at)
        AgentTools.of(resolve(spec)).put_into(session)
        await process.open_session(session)
        yield Segment(process, spec)
    except BaseException:
        await process.kill()
        raise
    else:
        await process.close()
    assert host.failures == []
