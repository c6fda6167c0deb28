"""Answers the calls of a crew process on behalf of its execution: models, embeddings, memory, the tools' journal."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import structlog

from coxswain.memory.v1 import memory_pb2, memory_service_pb2_grpc
from coxswain.models.v1 import inference_pb2, inference_service_pb2_grpc
from coxswain.orchestrator.v1 import execution_pb2
from services.common.errors import CoxswainError, Internal
from services.common.grpc.status import from_rpc_error
from services.common.ids import new_id
from services.orchestrator.domain.tool import ToolCallState
from services.orchestrator.worker.host import memory_messages as memories
from services.orchestrator.worker.host.model_messages import Answer, completion, request_hash
from services.orchestrator.worker.host.peer_retry import call_peer, retry_while_absent
from services.orchestrator.worker.host.principals import ExecutionPrincipal
from services.orchestrator.worker.host.recorder import Recorder, TaskRef
from services.orchestrator.worker.host.run_store import FencedWrite, ToolCall
from services.orchestrator.worker.host.usage_total import UsageTotal
from services.orchestrator.worker.link.framing import Frame, RemoteError

logger = structlog.get_logger(__name__)

_RESULTS_IN_CALL = 10_000
_PASSING_REASONS = frozenset(
    {
        "UPSTREAM_RATE_LIMITED",
        "UPSTREAM_UNAVAILABLE",
        "UPSTREAM_BAD_RESPONSE",
        "DEPENDENCY_UNAVAILABLE",
        "OVERLOADED",
        "CONTEXT_WINDOW_EXCEEDED",
        "INTERNAL",
    }
)
"""What an agent may try again, or get around; after anything else its task ends."""


@dataclass(slots=True)
class TaskJournal:
    """What one attempt at a task needs to know of earlier ones."""

    task: TaskRef
    salt: str = ""
    """Tells apart the requests of a task that a person had done again."""
    answers: dict[tuple[str, int], bytes] = field(default_factory=dict)
    tool_calls: dict[str, ToolCall] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stubs:
    """The services crew processes reach through their host."""

    inference: "inference_service_pb2_grpc.InferenceServiceAsyncStub"
    memory: "memory_service_pb2_grpc.MemoryServiceAsyncStub"


class CrewCalls:
    """Serves the crew process of one claimed execution.

    What it raises but RemoteError concerns the whole execution: Fenced, CredentialExpired.
    """

    def __init__(
        self,
        stubs: Stubs,
        recorder: Recorder,
        principal: ExecutionPrincipal,
        *,
        memory_id: str,
        embedding_model: str,
        retry_seconds: float,
        call_timeout: float,
        usage: UsageTotal,
    ) -> None:
        """`retry_seconds` is for how long an absent service is asked again, `call_timeout` how many seconds one model
        call may take; what model calls use is added to `usage`.
        """
        self._stubs = stubs
        self._recorder = recorder
        self._principal = principal
        self._namespace = memories.namespace(memory_id)
        self._embedding_model = embedding_model
        self._retry_seconds = retry_seconds
        self._call_timeout = call_timeout
        self._usage = usage
        self._journals: dict[int, TaskJournal] = {}
        self._methods: dict[str, Callable[[TaskJournal, Frame], Awaitable[Any]]] = {
            "llm.complete": self._complete,
            "embed": self._embed,
            "memory.save": self._save,
            "memory.search": self._search,
            "memory.delete": self._delete,
            "memory.get": self._get,
            "memory.list": self._list,
            "memory.scope": self._scope,
            "memory.scopes": self._scopes,
            "memory.categories": self._categories,
            "memory.count": self._count,
            "memory.touch": self._touch,
            "tool.begin": self._begin_tool,
            "tool.end": self._end_tool,
            "tool.started": self._tool_started,
            "tool.completed": self._tool_completed,
            "tool.failed": self._tool_failed,
        }

    def begin_task(self, index: int, journal: TaskJournal) -> None:
        """Serve calls of an attempt at a task from now on."""
        self._journals[index] = journal

    async def serve(self, method: str, params: Frame) -> Any:
        """Answer one call of the crew process."""
        try:
            return await self._methods[method](self._journals[params["task"]], params)
        except CoxswainError as error:
            fatal = error.reason not in _PASSING_REASONS
            raise RemoteError(error.reason, error.message, fatal=fatal) from error

    # ---- models

    async def _complete(self, journal: TaskJournal, params: Frame) -> Frame:
        request = params["request"]
        digest = request_hash(request, journal.salt)
        occurrence = journal.asked.get(digest, 0)
        journal.asked[digest] = occurrence + 1
        kept = journal.answers.get((digest, occurrence))
        if kept is not None:
            return self._replay(journal, params, Answer.from_bytes(kept))
        try:
            answer = await self._ask_until_answered(journal, params, digest, occurrence)
        except BaseException:
            # It was not answered: the same question is no repetition.
            journal.asked[digest] = min(journal.asked[digest], occurrence)
            raise
        return answer.as_json()

    def _replay(self, journal: TaskJournal, params: Frame, answer: Answer) -> Frame:
        call_id = new_id()
        self._recorder.add(journal.task, _started(call_id, params), call_id=call_id)
        completed = execution_pb2.LlmCallCompleted(call_id=call_id, text=answer.text, replayed=True)
        self._recorder.add(journal.task, completed, call_id=call_id)
        return answer.as_json()

    async def _ask_until_answered(self, journal: TaskJournal, params: Frame, digest: str, occurrence: int) -> Answer:
        message = completion(params["request"])

        async def ask() -> Answer:
            return await self._ask(journal, params, message, digest, occurrence)

        return await retry_while_absent(lambda: self._principal.act(ask), self._retry_seconds)

    async def _ask(
        self,
        journal: TaskJournal,
        params: Frame,
        message: inference_pb2.Completion,
        digest: str,
        occurrence: int,
    ) -> Answer:
        call_id = new_id()
        before = self._recorder.last_sequence
        self._recorder.add(journal.task, _started(call_id, params), call_id=call_id)
        try:
            answer = await self._stream(journal.task, call_id, message)
        except BaseException as error:
            error_text = error.message if isinstance(error, CoxswainError) else "the call was given up"
            failed = execution_pb2.LlmCallFailed(call_id=call_id, message=error_text)
            self._recorder.add(journal.task, failed, call_id=call_id)
            self._recorder.prune_chunks(call_id, before)
            raise
        self._keep(journal.task, call_id, answer, digest, occurrence)
        self._recorder.prune_chunks(call_id, before)
        return answer

    async def _stream(self, task: TaskRef, call_id: str, message: inference_pb2.Completion) -> Answer:
        answer = Answer()
        request = inference_pb2.StreamCompleteRequest(completion=message)
        call = self._stubs.inference.StreamComplete(request, timeout=self._call_timeout)
        try:
            async for delta in call:
                answer.take(delta)
                kind = delta.WhichOneof("delta")
                if kind == "text":
                    self._recorder.chunk(task, call_id, text=delta.text)
                elif kind == "reasoning":
                    self._recorder.chunk(task, call_id, reasoning=delta.reasoning)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INTERNAL:
                # It did answer: asking again is the agent's choice, and counts among its tries.
                raise Internal("the model returned an invalid response", reason="UPSTREAM_BAD_RESPONSE") from error
            raise from_rpc_error(error, "models") from error
        finally:
            call.cancel()
        if not answer.finished:
            raise Internal("the model's answer broke off before its end", reason="UPSTREAM_BAD_RESPONSE")
        return answer

    def _keep(self, task: TaskRef, call_id: str, answer: Answer, digest: str, occurrence: int) -> None:
        used = answer.usage
        index = -1 if task.task_index is None else task.task_index

        async def keep(write: FencedWrite) -> None:
            await write.keep_answer(index, digest, occurrence, answer.to_bytes())
            await write.use(index, used)

        completed = execution_pb2.LlmCallCompleted(
            call_id=call_id,
            text=answer.text,
            input_tokens=used.input_tokens,
            output_tokens=used.output_tokens,
            cost=used.cost,
        )
        self._recorder.add(task, completed, keep, call_id=call_id, flush_soon=True)
        self._usage.add(used)

    async def _embed(self, _: TaskJournal, params: Frame) -> Frame:
        # A text of nothing but blanks has no meaning to embed, and the service refuses empty ones.
        texts = [text if text.strip() else "-" for text in params["texts"]]
        request = inference_pb2.EmbedRequest(model=params["model"], texts=texts)
        response = await self._ask_peer("models", self._stubs.inference.Embed, request)
        return {"vectors": [list(embedding.values) for embedding in response.embeddings]}

    # ---- memory

    async def _save(self, _: TaskJournal, params: Frame) -> Frame:
        request = memory_pb2.SaveRecordsRequest(
            namespace=self._namespace,
            records=[memories.record_message(record) for record in params["records"]],
            embedding_model=self._embedding_model,
        )
        await self._ask_memory(self._stubs.memory.SaveRecords, request)
        return {}

    async def _search(self, _: TaskJournal, params: Frame) -> Frame:
        request = memory_pb2.SearchRecordsRequest(
            namespace=self._namespace,
            filter=memories.filter_message(params["filter"]),
            min_score=params["min_score"],
        )
        if "text" in params:
            request.text = params["text"]
        else:
            request.vector.values.extend(params["vector"])
        results: list[Frame] = []
        while len(results) < params["limit"]:
            request.limit = min(_RESULTS_IN_CALL, params["limit"] - len(results))
            response = await self._ask_memory(self._stubs.memory.SearchRecords, request)
            results += [
                {"record": memories.record_json(result.record), "similarity": result.similarity}
                for result in response.results
            ]
            request.page_token = response.next_page_token
            if not request.page_token:
                break
        return {"results": results}

    async def _delete(self, _: TaskJournal, params: Frame) -> Frame:
        request = memory_pb2.DeleteRecordsRequest(namespace=self._namespace, ids=params["ids"])
        if params["filter"]:
            request.filter.CopyFrom(memories.filter_message(params["filter"]))
        response = await self._ask_memory(self._stubs.memory.DeleteRecords, request)
        return {"deleted": response.deleted}

    async def _get(self, _: TaskJournal, params: Frame) -> Frame:
        request = memory_pb2.GetRecordRequest(namespace=self._namespace, id=params["id"], include_embedding=True)
        try:
            response = await self._ask_memory(self._stubs.memory.GetRecord, request)
        except CoxswainError as error:
            if error.reason == "NOT_FOUND":
                return {"record": None}
            raise
        return {"record": memories.record_json(response.record)}

    async def _list(self, _: TaskJournal, params: Frame) -> Frame:
        records: list[Frame] = []
        token = ""
        while len(records) < params["limit"]:
            request = memory_pb2.ListRecordsRequest(
                namespace=self._namespace,
                filter=memories.filter_message(params["filter"]),
                page_size=min(1000, params["limit"] - len(records)),
                page_token=token,
            )
            response = await self._ask_memory(self._stubs.memory.ListRecords, request)
            records += [memories.record_json(record) for record in response.records]
            token = response.next_page_token
            if not token:
                break
        return {"records": records}

    async def _scope(self, _: TaskJournal, params: Frame) -> Frame:
        request = memory_pb2.GetScopeRequest(namespace=self._namespace, path=params["scope"])
        response = await self._ask_memory(self._stubs.memory.GetScope, request)
        return memories.scope_json(response.scope)

    async def _scopes(self, _: TaskJournal, params: Frame) -> Frame:
        request = memory_pb2.ListScopesRequest(namespace=self._namespace, parent=params["parent"])
        response = await self._ask_memory(self._stubs.memory.ListScopes, request)
        return {"scopes": [scope.path for scope in response.scopes]}

    async def _categories(self, _: TaskJournal, params: Frame) -> Frame:
        request = memory_pb2.ListCategoriesRequest(namespace=self._namespace, scope_prefix=params["scope"])
        response = await self._ask_memory(self._stubs.memory.ListCategories, request)
        return {"counts": dict(response.counts)}

    async def _count(self, _: TaskJournal, params: Frame) -> Frame:
        request = memory_pb2.CountRecordsRequest(
            namespace=self._namespace, filter=memories.filter_message(params["filter"])
        )
        response = await self._ask_memory(self._stubs.memory.CountRecords, request)
        return {"count": response.count}

    async def _touch(self, _: TaskJournal, params: Frame) -> None:
        request = memory_pb2.TouchRecordsRequest(namespace=self._namespace, ids=params["ids"])
        try:
            await self._ask_memory(self._stubs.memory.TouchRecords, request)
        except CoxswainError as error:
            # Only when a memory was last found is lost, and nobody waits for this.
            logger.info("memories_not_touched", reason=error.reason)

    async def _ask_memory(self, method: Callable[..., Any], request: Any) -> Any:
        return await self._ask_peer("memory", method, request)

    async def _ask_peer(self, service: str, method: Callable[..., Any], request: Any) -> Any:
        return await call_peer(self._principal, service, method, request, self._retry_seconds)

    # ---- tools

    async def _begin_tool(self, journal: TaskJournal, params: Frame) -> Frame:
        key, tool, idempotent = params["key"], params["tool"], params["idempotent"]
        known = journal.tool_calls.get(key)
        if known is not None and known.state is not ToolCallState.INTENT:
            return {"done": True, "output": known.output, "error": known.error}
        if known is not None and not idempotent:
            raise RemoteError(
                "TOOL_OUTCOME_UNKNOWN",
                f'the tool "{tool}" was started before its worker was lost; whether it has done its work is not known, '
                "and it must not run twice: find out, then resume the execution",
                fatal=True,
            )
        if not idempotent:

            async def intend(write: FencedWrite) -> None:
                await write.intend_tool_call(_index(journal), key, tool, idempotent=False)

            await self._recorder.commit([], intend)
        return {"done": False, "output": "", "error": ""}

    async def _end_tool(self, journal: TaskJournal, params: Frame) -> Frame:
        async def end(write: FencedWrite) -> None:
            if params["idempotent"]:
                await write.intend_tool_call(_index(journal), params["key"], params["tool"], idempotent=True)
            await write.end_tool_call(_index(journal), params["key"], params["output"], params["error"])

        if params["idempotent"]:
            self._recorder.also_store(end)
        else:
            await self._recorder.commit([], end)
        return {}

    async def _tool_started(self, journal: TaskJournal, params: Frame) -> None:
        self._recorder.add(
            journal.task,
            execution_pb2.ToolCallStarted(
                call_id=params["call_id"], tool_name=params["tool"], arguments=params["arguments"]
            ),
        )

    async def _tool_completed(self, journal: TaskJournal, params: Frame) -> None:
        self._recorder.add(
            journal.task,
            execution_pb2.ToolCallCompleted(
                call_id=params["call_id"], tool_name=params["tool"], output=params["output"]
            ),
        )

    async def _tool_failed(self, journal: TaskJournal, params: Frame) -> None:
        self._recorder.add(
            journal.task,
            execution_pb2.ToolCallFailed(
                call_id=params["call_id"], tool_name=params["tool"], message=params["message"]
            ),
        )


def _started(call_id: str, params: Frame) -> execution_pb2.LlmCallStarted:
    return execution_pb2.LlmCallStarted(
        call_id=call_id, model=params["request"]["model"], agent_role=params["agent_role"]
    )


def _index(journal: TaskJournal) -> int:
    return -1 if journal.task.task_index is None else journal.task.task_index
