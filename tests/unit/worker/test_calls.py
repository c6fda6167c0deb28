"""What a host does with the calls of a crew process: asks services, keeps answers, and says which errors may pass."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import grpc
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from coxswain.memory.v1 import memory_pb2, record_pb2
from coxswain.models.v1 import inference_pb2 as pb
from services.common.backoff import Backoff
from services.common.errors import CoxswainError, FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from services.common.grpc.status import DETAILS_KEY, to_status
from services.orchestrator.domain.execution import Usage
from services.orchestrator.domain.tool import ToolCallState
from services.orchestrator.worker.host import memory_messages, peer_retry
from services.orchestrator.worker.host.calls import CrewCalls, Stubs, TaskJournal
from services.orchestrator.worker.host.model_messages import Answer, completion, request_hash
from services.orchestrator.worker.host.peer_retry import retry_while_absent
from services.orchestrator.worker.host.recorder import TaskRef
from services.orchestrator.worker.host.run_store import ToolCall
from services.orchestrator.worker.host.usage_total import UsageTotal
from services.orchestrator.worker.link.framing import Frame, RemoteError

REQUEST: Frame = {"model": "m", "messages": [{"role": "user", "content": [{"text": "Hi"}]}]}
ASKED: Frame = {"task": 0, "request": REQUEST, "agent_role": "Reader"}


def rpc_error(error: CoxswainError | None, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> grpc.aio.AioRpcError:
    """What a stub raises for an error another service explained, or (None) for its absence."""
    if error is None:
        return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())
    code, status = to_status(error, "")
    details = grpc.aio.Metadata((DETAILS_KEY, status.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), details, details=status.message)


def said(*texts: str, finish: bool = True) -> list[pb.StreamCompleteResponse]:
    """A streamed answer."""
    pieces = [pb.StreamCompleteResponse(text=text) for text in texts]
    if finish:
        pieces.append(pb.StreamCompleteResponse(usage=pb.Usage(input_tokens=3, output_tokens=2, cost=0.5)))
        pieces.append(pb.StreamCompleteResponse(finish=pb.Finish(reason=pb.FINISH_REASON_STOP)))
    return pieces


class Stream:
    """A streaming call."""

    def __init__(self, pieces: Sequence[Any]) -> None:
        self.pieces = pieces
        self.cancelled = False

    async def __aiter__(self) -> AsyncIterator[Any]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def cancel(self) -> None:
        self.cancelled = True


class Services:
    """The models and the memory service, answering from lists; what is an exception is raised."""

    def __init__(self) -> None:
        self.streams: list[Sequence[Any]] = []
        self.answers: list[Any] = []
        self.asked: list[Any] = []

    def StreamComplete(self, request: Any, timeout: float) -> Stream:
        self.asked.append(request)
        return Stream(self.streams.pop(0))

    async def _answer(self, request: Any) -> Any:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def __getattr__(self, _: str) -> Any:
        return self._answer


class Recording:
    """Remembers what would be stored."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.chunks: list[str] = []
        self.commits = 0
        self.pruned: list[tuple[str, int]] = []
        self.last_sequence = 7

    def add(self, _: TaskRef, body: Any, *also_store: Any, call_id: str = "", flush_soon: bool = False) -> None:
        self.events.append(body)

    def also_store(self, *changes: Any) -> None:
        pass

    def chunk(self, _: TaskRef, call_id: str, *, text: str = "", reasoning: str = "") -> None:
        self.chunks.append(text or reasoning)

    def prune_chunks(self, call_id: str, after_sequence: int) -> None:
        self.pruned.append((call_id, after_sequence))

    async def commit(self, events: Sequence[Any], *also_store: Any) -> None:
        self.commits += 1


class Principal:
    """Somebody."""

    async def act(self, call: Callable[[], Awaitable[Any]]) -> Any:
        return await call()


class World:
    """Calls of one crew process whose surroundings are played."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(peer_retry, "_BACKOFF", Backoff(0.001, 5.0))
        self.services = Services()
        self.recorder = Recording()
        self.usage = UsageTotal(Usage())
        self.journal = TaskJournal(TaskRef(0, "t", 1))
        self.calls = CrewCalls(
            Stubs(cast("Any", self.services), cast("Any", self.services)),
            cast("Any", self.recorder),
            cast("Any", Principal()),
            memory_id="crew",
            embedding_model="e",
            retry_seconds=5,
            call_timeout=10,
            usage=self.usage,
        )
        self.calls.begin_task(0, self.journal)

    async def ask(self, method: str, **params: Any) -> Any:
        return await self.calls.serve(method, {"task": 0, **params})

    @property
    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.recorder.events]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


async def test_an_answer_is_put_together_told_of_and_counted(world: World) -> None:
    call = [
        pb.StreamCompleteResponse(reasoning="Hm."),
        pb.StreamCompleteResponse(
            tool_call=pb.ToolCallDelta(index=0, id="c1", name="calculator", arguments_json='{"ex')
        ),
        pb.StreamCompleteResponse(tool_call=pb.ToolCallDelta(index=1, id="c2", name="other")),
        pb.StreamCompleteResponse(tool_call=pb.ToolCallDelta(index=0, arguments_json='pression": "1"}')),
    ]
    world.services.streams = [[*call, *said("Let me ", "see.")]]
    answer = await world.calls.serve("llm.complete", ASKED)
    assert answer["text"] == "Let me see."
    assert [(c["id"], c["name"], c["arguments"]) for c in answer["tool_calls"]] == [
        ("c1", "calculator", '{"expression": "1"}'),
        ("c2", "other", ""),
    ]
    assert world.kinds == ["LlmCallStarted", "LlmCallCompleted"]
    assert world.recorder.events[0].agent_role == "Reader"
    assert world.recorder.chunks == ["Hm.", "Let me ", "see."]
    assert world.usage.value == Usage(1, 3, 2, 0.5)
    assert world.recorder.pruned == [(world.recorder.events[0].call_id, 7)]


async def test_an_answer_of_an_earlier_attempt_is_given_again_and_costs_nothing(world: World) -> None:
    kept = Answer("Before.", {0: {"id": "c", "name": "n", "arguments": "{}"}}, Usage(1, 9, 9, 1.0), finished=True)
    world.journal.answers = {(request_hash(REQUEST, ""), 0): kept.to_bytes()}
    assert await world.calls.serve("llm.complete", ASKED) == kept.as_json()
    assert world.recorder.events[-1].replayed
    assert world.usage.value == Usage()
    # The second time the same question is asked it is a new one.
    world.services.streams = [said("Now.")]
    assert (await world.calls.serve("llm.complete", ASKED))["text"] == "Now."


async def test_what_a_person_had_done_again_is_asked_anew(world: World) -> None:
    world.journal.answers = {(request_hash(REQUEST, ""), 0): Answer("Refused.", finished=True).to_bytes()}
    world.journal.salt = "approval-1"
    world.services.streams = [said("Better.")]
    assert (await world.calls.serve("llm.complete", ASKED))["text"] == "Better."


async def test_an_absent_service_is_asked_again_and_a_failed_question_is_no_repetition(world: World) -> None:
    world.services.streams = [[rpc_error(None)], [rpc_error(None)], said("At last.")]
    assert (await world.calls.serve("llm.complete", ASKED))["text"] == "At last."
    assert world.kinds == ["LlmCallStarted", "LlmCallFailed"] * 2 + ["LlmCallStarted", "LlmCallCompleted"]
    assert world.journal.asked == {request_hash(REQUEST, ""): 1}
    world.services.streams = [[rpc_error(NotFound("no", reason="MODEL_NOT_FOUND"))]]
    with pytest.raises(RemoteError):
        await world.calls.serve("llm.complete", ASKED)
    assert world.journal.asked == {request_hash(REQUEST, ""): 1}


@pytest.mark.parametrize(
    ("pieces", "reason", "fatal"),
    [
        ([rpc_error(NotFound("near names", reason="MODEL_NOT_FOUND"))], "MODEL_NOT_FOUND", True),
        ([rpc_error(FailedPrecondition("off", reason="MODEL_DISABLED"))], "MODEL_DISABLED", True),
        ([rpc_error(ResourceExhausted("spent", reason="BUDGET_EXCEEDED"))], "BUDGET_EXCEEDED", True),
        ([rpc_error(ResourceExhausted("slow", reason="UPSTREAM_RATE_LIMITED"))], "UPSTREAM_RATE_LIMITED", False),
        ([rpc_error(Unavailable("down", reason="UPSTREAM_UNAVAILABLE"))], "UPSTREAM_UNAVAILABLE", False),
        ([rpc_error(None, grpc.StatusCode.INTERNAL)], "UPSTREAM_BAD_RESPONSE", False),
        (said("Cut off", finish=False), "UPSTREAM_BAD_RESPONSE", False),
    ],
)
async def test_only_what_may_pass_is_left_to_the_agent(
    world: World, pieces: list[Any], reason: str, fatal: bool
) -> None:
    world.services.streams = [pieces]
    with pytest.raises(RemoteError) as failed:
        await world.calls.serve("llm.complete", ASKED)
    assert (failed.value.reason, failed.value.fatal) == (reason, fatal)
    assert world.kinds == ["LlmCallStarted", "LlmCallFailed"]
    assert len(world.services.asked) == 1


async def test_a_call_that_is_given_up_is_told_of(world: World) -> None:
    class Hanging(Stream):
        async def __aiter__(self) -> AsyncIterator[Any]:
            await asyncio.Event().wait()
            yield None

    streams: list[Hanging] = []

    def hang(*_: Any, **__: Any) -> Hanging:
        streams.append(Hanging([]))
        return streams[-1]

    world.services.StreamComplete = hang  # type: ignore[method-assign]
    call = asyncio.create_task(world.calls.serve("llm.complete", ASKED))
    while not streams:  # noqa: ASYNC110 - it begins within a few turns of the loop
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert world.kinds == ["LlmCallStarted", "LlmCallFailed"]
    assert streams[0].cancelled


@pytest.mark.parametrize(
    ("known", "idempotent", "done"),
    [
        (None, True, False),
        (None, False, False),
        (ToolCall(ToolCallState.COMPLETED, "42", ""), False, True),
        (ToolCall(ToolCallState.FAILED, "", "no"), False, True),
        (ToolCall(ToolCallState.INTENT, "", ""), True, False),
    ],
)
async def test_a_tool_call_runs_only_if_it_may(
    world: World, known: ToolCall | None, idempotent: bool, done: bool
) -> None:
    if known is not None:
        world.journal.tool_calls["k"] = known
    told = await world.ask("tool.begin", key="k", tool="mail", idempotent=idempotent)
    assert told["done"] is done
    if done:
        assert known is not None
        assert (told["output"], told["error"]) == (known.output, known.error)
    # What must not run twice is noted before it runs, and for good.
    assert world.recorder.commits == (known is None and not idempotent)


async def test_a_tool_call_of_unknown_outcome_is_refused(world: World) -> None:
    world.journal.tool_calls["k"] = ToolCall(ToolCallState.INTENT, "", "")
    with pytest.raises(RemoteError) as refused:
        await world.ask("tool.begin", key="k", tool="mail", idempotent=False)
    assert (refused.value.reason, refused.value.fatal) == ("TOOL_OUTCOME_UNKNOWN", True)


async def test_blank_texts_are_embedded_as_something(world: World) -> None:
    world.services.answers = [pb.EmbedResponse(embeddings=[pb.Embedding(values=[1.0]), pb.Embedding(values=[0.5])])]
    assert await world.ask("embed", model="e", texts=["a", " \n"]) == {"vectors": [[1.0], [0.5]]}
    assert list(world.services.asked[0].texts) == ["a", "-"]


async def test_memories_are_searched_by_text_or_vector_in_the_crews_namespace(world: World) -> None:
    found = memory_pb2.SearchRecordsResponse(
        results=[
            memory_pb2.SearchResult(
                record=record_pb2.Record(id="r", unified=record_pb2.UnifiedRecord(content="c")), similarity=0.5
            )
        ]
    )
    world.services.answers = [found, found]
    filters = {"scope_prefix": "/crew", "metadata": {"task": "read"}}
    results = await world.ask("memory.search", text="ships", filter=filters, limit=3, min_score=0.0)
    await world.ask("memory.search", vector=[1.0, 0.0], filter={}, limit=3, min_score=0.0)
    by_text, by_vector = world.services.asked
    assert (by_text.text, by_text.namespace.memory_id, by_text.filter.metadata["task"]) == ("ships", "crew", '"read"')
    assert list(by_vector.vector.values) == [1.0, 0.0]
    assert [(found["record"]["content"], found["similarity"]) for found in results["results"]] == [("c", 0.5)]


async def test_a_memory_that_is_not_there_is_none_and_a_touch_may_fail(world: World) -> None:
    world.services.answers = [rpc_error(NotFound("gone")), rpc_error(FailedPrecondition("no", reason="STORE_FAILED"))]
    assert await world.ask("memory.get", id="r") == {"record": None}
    assert await world.ask("memory.touch", ids=["r"]) is None


async def test_a_listing_goes_on_over_pages(world: World) -> None:
    record = record_pb2.Record(id="r", unified=record_pb2.UnifiedRecord(content="c"))
    world.services.answers = [
        memory_pb2.ListRecordsResponse(records=[record] * 2, next_page_token="next"),
        memory_pb2.ListRecordsResponse(records=[record]),
    ]
    assert len((await world.ask("memory.list", filter={}, limit=10))["records"]) == 3
    assert [request.page_token for request in world.services.asked] == ["", "next"]


MOMENTS = st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1)).map(  # noqa: DTZ001 - made aware below
    lambda moment: moment.replace(tzinfo=UTC).isoformat()
)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(
    st.fixed_dictionaries(
        {
            "id": TEXTS,
            "content": TEXTS,
            "scope": TEXTS.map(lambda text: f"/{text}"),
            "categories": st.lists(TEXTS, max_size=3),
            "metadata": st.dictionaries(TEXTS, TEXTS | st.integers(-9, 9) | st.booleans() | st.none(), max_size=3),
            "importance": st.sampled_from([0.0, 0.25, 0.5, 1.0]),
            "created_at": MOMENTS,
            "last_accessed": MOMENTS,
            "embedding": st.lists(st.sampled_from([0.0, 0.5, -1.0]), max_size=4),
            "source": TEXTS,
            "private": st.booleans(),
        }
    )
)
def test_a_memory_crosses_the_wire_whole(record: Frame) -> None:
    message = record_pb2.Record.FromString(memory_messages.record_message(record).SerializeToString())
    assert memory_messages.record_json(message) == record


def test_a_request_becomes_a_message() -> None:
    message = completion(
        {
            "model": "m",
            "temperature": 0.5,
            "messages": [
                {"role": "system", "content": [{"text": "Do."}]},
                {"role": "user", "content": [{"text": "Read: "}, {"material": "The sea."}]},
                {"role": "assistant", "tool_calls": [{"id": "1", "name": "t", "arguments": "{}"}]},
                {"role": "tool", "tool_call_id": "1", "content": [{"text": "done"}]},
            ],
            "tools": [{"name": "t", "description": "d", "parameters": {"type": "object"}}],
            "response_format": {"name": "R", "schema": {"type": "object"}},
        }
    )
    assert [part.WhichOneof("part") for part in message.messages[1].content] == ["text", "material"]
    assert [said.role for said in message.messages] == [1, 2, 3, 4]
    assert message.messages[2].tool_calls[0].name == "t"
    assert json_format.MessageToDict(message.tools[0].parameters_schema) == {"type": "object"}
    assert json_format.MessageToDict(message.response_format.schema) == {"type": "object"}
    assert message.sampling.temperature == 0.5
    assert not completion(REQUEST).sampling.HasField("temperature")


async def test_patience_ends_and_refusals_are_not_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_retry, "_BACKOFF", Backoff(0.001, 5.0))
    tries = 0

    async def absent() -> None:
        nonlocal tries
        tries += 1
        raise Unavailable("gone")

    with pytest.raises(Unavailable):
        await retry_while_absent(absent, 0.02)
    assert tries > 1
    tries = 0

    async def refusing() -> None:
        nonlocal tries
        tries += 1
        raise Unavailable("the upstream is down", reason="UPSTREAM_UNAVAILABLE")

    with pytest.raises(Unavailable):
        await retry_while_absent(refusing, 60)
    assert tries == 1
