"""Serves the model calls and embeddings of a crew process: each answer that was paid for is kept."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

import grpc

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1 import inference_service_pb2_grpc
from coxswain.orchestrator.v1 import execution_pb2
from coxswain.orchestrator.worker.link_pb2 import Complete
from services.common.errors import CoxswainError, DeadlineExceeded, FailedPrecondition, InvalidArgument, Unavailable
from services.common.grpc.status import from_rpc_error
from services.common.ids import new_id
from services.common.tracing.spans import span
from services.orchestrator.domain.execution import Usage
from services.orchestrator.worker.host.fenced_write import FencedWrite
from services.orchestrator.worker.host.model_messages import (
    ENVELOPE_BYTES,
    Answer,
    AnswerParts,
    AnswerTooLarge,
    fault_of,
    question_hash,
    request_hash,
)
from services.orchestrator.worker.host.model_waits import ModelWaits
from services.orchestrator.worker.host.peer_retry import call_peer, retry_while_absent
from services.orchestrator.worker.host.principals import ExecutionPrincipal
from services.orchestrator.worker.host.recorder import Recorder, TaskRef
from services.orchestrator.worker.host.task_journal import TaskJournal
from services.orchestrator.worker.host.usage_total import UsageTotal

_BYTES_PER_TOKEN = 4
_MOST_BLANK_ANSWERS = 3
"""Calls after which a model that answers nothing is believed."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """How many seconds a model call may take in all, and until its answer begins."""

    call: float
    first_token: float

    def of(self, asked: Complete) -> "TimeLimits":
        """Return the limits of a call, which are these where it sets none."""
        return TimeLimits(
            asked.timeout if asked.HasField("timeout") else self.call,
            asked.first_token_timeout if asked.HasField("first_token_timeout") else self.first_token,
        )


class ModelCalls:
    """The inference service as one execution calls it."""

    def __init__(
        self,
        inference: "inference_service_pb2_grpc.InferenceServiceAsyncStub",
        recorder: Recorder,
        principal: ExecutionPrincipal,
        waits: ModelWaits,
        *,
        retry_seconds: float,
        time_limits: TimeLimits,
        most_bytes: int,
        usage: UsageTotal,
        labels: Mapping[str, str],
    ) -> None:
        """`retry_seconds` is for how long an absent service is asked again, `time_limits` are for model calls that set
        none, `most_bytes` for a request and for an answer; what model calls use is added to `usage`. `labels` are what
        they are summed by later.
        """
        self._inference = inference
        self._recorder = recorder
        self._principal = principal
        self._waits = waits
        self._retry_seconds = retry_seconds
        self._time_limits = time_limits
        self._most_bytes = most_bytes
        self._usage = usage
        self._labels = labels

    async def complete(self, journal: TaskJournal, request: Complete) -> pb.CompleteResponse:
        """Return the answer that was given to the same request before, else a new one."""
        asked = question_hash(request) if request.question else request_hash(request.completion, journal.salt)
        key = (asked, request.occurrence)
        kept = journal.journaled_responses.get(key)
        if kept is not None:
            return self._replay(journal, request, Answer.from_bytes(kept)).to_proto()

        async def call() -> Answer:
            return await retry_while_absent(
                lambda: self._principal.act(lambda: self._call(journal, request, key)),
                self._retry_seconds,
            )

        if request.dispensable:
            # Nobody waits for a model whose answer the task can do without.
            return (await call()).to_proto()
        time_left = request.time_left if request.HasField("time_left") else None
        answer = await _not_blank(
            lambda: self._waits.until_answered(journal, request.completion.model, call, time_left)
        )
        return answer.to_proto()

    async def embed(self, journal: TaskJournal, request: pb.EmbedRequest) -> pb.EmbedResponse:
        """Return a vector for each text."""
        # A text of nothing but blanks has no meaning to embed, and the service refuses empty ones.
        request.texts[:] = [text if text.strip() else "-" for text in request.texts]
        request.labels.update(self._labels)

        async def call() -> pb.EmbedResponse:
            return await call_peer(self._principal, "models", self._inference.Embed, request, self._retry_seconds)

        return await self._waits.until_answered(journal, request.model, call)

    def _replay(self, journal: TaskJournal, request: Complete, answer: Answer) -> Answer:
        # Earlier releases kept answers of any size. What was taken from a stream was counted without its envelope.
        size = answer.to_proto().ByteSize()
        if len(answer.text.encode()) > self._most_bytes or size > self._most_bytes + ENVELOPE_BYTES:
            raise AnswerTooLarge(request.completion.model, self._most_bytes, Usage())
        call_id = self._start(journal.task, request)
        completed = execution_pb2.LlmCallCompleted(
            call_id=call_id, text=answer.text, replayed=True, finish_reason=answer.finish_reason
        )
        self._recorder.add(journal.task, completed, call_id=call_id)
        return answer

    async def _call(self, journal: TaskJournal, request: Complete, key: tuple[str, int]) -> Answer:
        # What is asked of the model, and what it used, is on the span of the service that calls it.
        with self._usage.model_call(), span("call model", attributes={"coxswain.model": request.completion.model}):
            return await self._ask(journal, request, key)

    async def _ask(self, journal: TaskJournal, request: Complete, key: tuple[str, int]) -> Answer:
        # However slow the database is, a host that dies loses one answer at most.
        await self._recorder.keep_costly()
        before = self._recorder.last_sequence
        call_id = self._start(journal.task, request)
        try:
            answer = await self._stream(journal.task, call_id, request)
        except BaseException as error:
            if not isinstance(error, AnswerTooLarge) or not request.dispensable:
                self._fail(journal, call_id, error)
                self._recorder.prune_chunks(call_id, before)
                raise
            answer = Answer(usage=error.used, finished=True, finish_reason=pb.FINISH_REASON_LENGTH)
        # One that the task can do without is kept as it is, or every attempt would pay for another one.
        fault = (
            None
            if request.dispensable
            else fault_of(answer, request.completion.model, cut_off_counts=journal.fails_if_cut_off)
        )
        self._keep(journal, call_id, answer, None if fault else key)
        self._recorder.prune_chunks(call_id, before)
        if fault is not None:
            raise fault
        return answer

    def _fail(self, journal: TaskJournal, call_id: str, error: BaseException) -> None:
        message = error.message if isinstance(error, CoxswainError) else "the call was given up"
        failed = execution_pb2.LlmCallFailed(call_id=call_id, message=message)
        self._recorder.add(journal.task, failed, call_id=call_id)
        if isinstance(error, AnswerTooLarge):
            # The model has worked for it all the same.
            self._recorder.use(journal.index, error.used)
            self._usage.add(error.used)

    def _start(self, task: TaskRef, request: Complete) -> str:
        call_id = new_id()
        started = execution_pb2.LlmCallStarted(
            call_id=call_id, model=request.completion.model, agent_role=request.agent_role
        )
        self._recorder.add(task, started, call_id=call_id)
        return call_id

    async def _stream(self, task: TaskRef, call_id: str, asked: Complete) -> Answer:
        parts = AnswerParts()
        completion, limits = asked.completion, self._time_limits.of(asked)
        request = pb.StreamCompleteRequest(completion=completion)
        request.completion.labels.update(self._labels)
        # Crews choose a temperature for all their agents: a model that takes none runs without it.
        request.completion.drop_unsupported_parameters = True
        if request.ByteSize() > self._most_bytes:
            raise InvalidArgument(
                f"the conversation has {request.ByteSize():,} bytes, and a message can hold {self._most_bytes:,}",
                reason="CONTEXT_WINDOW_EXCEEDED",
                metadata={"model": completion.model},
            )
        call = self._inference.StreamComplete(request, timeout=limits.call)
        try:
            async for delta in _begun_in_time(call, limits.first_token, completion.model):
                parts.add(delta)
                if max(parts.kept_bytes, parts.reasoning_bytes) > self._most_bytes:
                    # The stream counts tokens at its end.
                    written = (parts.kept_bytes + parts.reasoning_bytes) // _BYTES_PER_TOKEN
                    used = Usage(1, request.ByteSize() // _BYTES_PER_TOKEN, written)
                    raise AnswerTooLarge(completion.model, self._most_bytes, used)
                kind = delta.WhichOneof("delta")
                if kind == "text":
                    self._recorder.chunk(task, call_id, text=delta.text)
                elif kind == "reasoning":
                    self._recorder.chunk(task, call_id, reasoning=delta.reasoning)
        except grpc.aio.AioRpcError as error:
            raise _as_failure(error, completion.model, limits) from error
        finally:
            call.cancel()
        answer = parts.answer()
        if not answer.finished:
            raise Unavailable("the model's response broke off before its end", reason="UPSTREAM_BAD_RESPONSE")
        if not completion.tools:
            # Nobody offered any.
            answer.tool_calls.clear()
        return answer

    def _keep(self, journal: TaskJournal, call_id: str, answer: Answer, key: tuple[str, int] | None) -> None:
        """Count an answer, and keep it under its `key`; one without is of no use to anybody."""
        used = answer.usage
        kept = answer.to_bytes()
        if key is not None:
            journal.journaled_responses[key] = kept

        async def keep(write: FencedWrite) -> None:
            if key is not None:
                await write.keep_answer(journal.index, *key, kept)

        completed = execution_pb2.LlmCallCompleted(
            call_id=call_id,
            text=answer.text,
            input_tokens=used.input_tokens,
            output_tokens=used.output_tokens,
            cost=used.cost,
            finish_reason=answer.finish_reason,
        )
        self._recorder.use(journal.index, used)
        self._recorder.add(journal.task, completed, keep, call_id=call_id, flush_soon=True)
        self._usage.add(used)


async def _not_blank(call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Return what `call` answers, asked again when that is blank."""
    for _ in range(_MOST_BLANK_ANSWERS - 1):
        try:
            return await call()
        except FailedPrecondition as error:
            if error.reason != "ANSWER_BLANK":
                raise
    return await call()


async def _begun_in_time(
    call: AsyncIterable[pb.StreamCompleteResponse], seconds: float, model: str
) -> AsyncIterator[pb.StreamCompleteResponse]:
    """Yield what a call streams. Raises DeadlineExceeded when nothing has come of it for `seconds`."""
    deltas = aiter(call)
    try:
        async with asyncio.timeout(seconds):
            delta = await anext(deltas, None)
    except TimeoutError:
        message = f'the model "{model}" did not begin to answer within {seconds:g} s'
        raise DeadlineExceeded(message, reason="UPSTREAM_UNAVAILABLE") from None
    while delta is not None:
        yield delta
        delta = await anext(deltas, None)


def _as_failure(error: grpc.aio.AioRpcError, model: str, limits: TimeLimits) -> CoxswainError:
    match error.code():
        case grpc.StatusCode.INTERNAL:
            return Unavailable(error.details() or "the model's answer broke off", reason="UPSTREAM_BAD_RESPONSE")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            # Whose clock was faster does not matter: a model that takes too long is called again.
            message = f'the model "{model}" did not finish its answer within {limits.call:g} s'
            return DeadlineExceeded(message, reason="UPSTREAM_UNAVAILABLE")
        case _:
            return from_rpc_error(error, "models")
