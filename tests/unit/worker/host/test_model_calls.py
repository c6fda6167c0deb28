"""Model calls: streamed answers put together, kept, counted and given again; absent services asked again."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from coxswain.models.v1 import inference_pb2 as pb
from services.common.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from services.orchestrator.domain.execution import Usage
from services.orchestrator.worker.host.model_messages import Answer, request_hash
from services.orchestrator.worker.link.errors import TaskError
from tests.unit.worker.host.call_world import Stream, World, rpc_error

REQUEST = pb.Completion(
    model="m", messages=[pb.Message(role=pb.MESSAGE_ROLE_USER, content=[pb.ContentPart(text="Hi")])]
)


def said(*texts: str, finish: bool = True) -> list[pb.StreamCompleteResponse]:
    """A streamed answer."""
    pieces = [pb.StreamCompleteResponse(text=text) for text in texts]
    if finish:
        pieces.append(pb.StreamCompleteResponse(usage=pb.Usage(input_tokens=3, output_tokens=2, cost=0.5)))
        pieces.append(pb.StreamCompleteResponse(finish=pb.Finish(reason=pb.FINISH_REASON_STOP)))
    return pieces


async def test_a_model_is_asked_when_the_answers_before_are_stored(world: World) -> None:
    world.services.streams = [said("First.")]
    world.recorder.stored.clear()
    call = asyncio.ensure_future(world.complete(REQUEST))
    for _ in range(10):
        await asyncio.sleep(0)
    assert world.services.asked == []
    world.recorder.stored.set()
    assert (await call).text == "First."


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
    offering = pb.Completion(tools=[pb.ToolDefinition(name="calculator"), pb.ToolDefinition(name="other")])
    offering.MergeFrom(REQUEST)
    answer = await world.complete(offering)
    assert answer.text == "Let me see."
    assert [(c.id, c.name, c.arguments_json) for c in answer.tool_calls] == [
        ("c1", "calculator", '{"expression": "1"}'),
        ("c2", "other", ""),
    ]
    assert world.kinds == ["LlmCallStarted", "LlmCallCompleted"]
    assert world.recorder.events[0].agent_role == "Reader"
    assert world.recorder.chunks == ["Hm.", "Let me ", "see."]
    assert world.usage.value == Usage(1, 3, 2, 0.5)
    assert world.recorder.pruned == [(world.recorder.events[0].call_id, 7)]


async def test_an_answer_of_an_earlier_attempt_is_given_again_and_costs_nothing(world: World) -> None:
    kept = Answer(
        "Before.", {0: pb.ToolCall(id="c", name="n", arguments_json="{}")}, Usage(1, 9, 9, 1.0), finished=True
    )
    world.journal.journaled_responses = {(request_hash(REQUEST, ""), 0): kept.to_bytes()}
    assert await world.complete(REQUEST) == kept.to_proto()
    assert world.recorder.events[-1].replayed
    assert world.usage.value == Usage()
    # The second time the same question is asked it is a new one, whose answer is known to an agent that starts over.
    world.services.streams = [said("Now.")]
    assert (await world.complete(REQUEST, occurrence=1)).text == "Now."
    assert (await world.complete(REQUEST, occurrence=1)).text == "Now."
    assert world.recorder.events[-1].replayed
    assert world.usage.value.llm_calls == 1


async def test_what_a_person_had_done_again_is_asked_anew(world: World) -> None:
    world.journal.journaled_responses = {(request_hash(REQUEST, ""), 0): Answer("Refused.", finished=True).to_bytes()}
    world.journal.salt = "approval-1"
    world.services.streams = [said("Better.")]
    assert (await world.complete(REQUEST)).text == "Better."


async def test_an_absent_service_is_asked_again_and_a_failed_question_is_not_kept(world: World) -> None:
    world.services.streams = [[rpc_error(None)], [rpc_error(None)], said("At last.")]
    assert (await world.complete(REQUEST)).text == "At last."
    assert world.kinds == ["LlmCallStarted", "LlmCallFailed"] * 2 + ["LlmCallStarted", "LlmCallCompleted"]
    assert list(world.journal.journaled_responses) == [(request_hash(REQUEST, ""), 0)]
    world.services.streams = [[rpc_error(NotFound("no", reason="MODEL_NOT_FOUND"))], said("Then.")]
    with pytest.raises(TaskError):
        await world.complete(REQUEST, occurrence=1)
    assert (await world.complete(REQUEST, occurrence=1)).text == "Then."


@pytest.mark.parametrize(
    ("pieces", "reason", "fatal"),
    [
        ([rpc_error(NotFound("near names", reason="MODEL_NOT_FOUND"))], "MODEL_NOT_FOUND", True),
        ([rpc_error(FailedPrecondition("off", reason="MODEL_DISABLED"))], "MODEL_DISABLED", True),
        ([rpc_error(ResourceExhausted("spent", reason="BUDGET_EXCEEDED"))], "BUDGET_EXCEEDED", True),
        (
            [rpc_error(ResourceExhausted("paid up", reason="UPSTREAM_QUOTA_EXHAUSTED"))],
            "UPSTREAM_QUOTA_EXHAUSTED",
            True,
        ),
        ([rpc_error(InvalidArgument("no", reason="UPSTREAM_REJECTED"))], "UPSTREAM_REJECTED", True),
        (
            [rpc_error(FailedPrecondition("key", reason="UPSTREAM_CREDENTIAL_REJECTED"))],
            "UPSTREAM_CREDENTIAL_REJECTED",
            True,
        ),
        (
            [rpc_error(Unauthenticated("token", reason="UPSTREAM_CREDENTIAL_REJECTED"))],
            "UPSTREAM_CREDENTIAL_REJECTED",
            True,
        ),
        ([rpc_error(InvalidArgument("long", reason="CONTEXT_WINDOW_EXCEEDED"))], "CONTEXT_WINDOW_EXCEEDED", False),
        (
            [rpc_error(Unavailable("down", reason="UPSTREAM_UNAVAILABLE", retry_after=3600))],
            "UPSTREAM_UNAVAILABLE",
            True,
        ),
    ],
)
async def test_what_lasts_ends_the_call_at_once_with_its_own_words(
    world: World, pieces: list[Any], reason: str, fatal: bool
) -> None:
    world.services.streams = [pieces]
    with pytest.raises(TaskError) as failed:
        await world.complete(REQUEST)
    assert (failed.value.reason, failed.value.fatal) == (reason, fatal)
    assert failed.value.message == pieces[0].details()
    assert world.kinds == ["LlmCallStarted", "LlmCallFailed"]
    assert len(world.services.asked) == 1


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        (
            [rpc_error(ResourceExhausted("slow", reason="UPSTREAM_RATE_LIMITED", retry_after=0.001))],
            "UPSTREAM_RATE_LIMITED",
        ),
        ([rpc_error(Unavailable("down", reason="UPSTREAM_UNAVAILABLE"))], "UPSTREAM_UNAVAILABLE"),
        ([rpc_error(DeadlineExceeded("late", reason="UPSTREAM_UNAVAILABLE"))], "UPSTREAM_UNAVAILABLE"),
        ([*said("Half", finish=False), rpc_error(None, grpc.StatusCode.INTERNAL)], "UPSTREAM_BAD_RESPONSE"),
        (said("Cut off", finish=False), "UPSTREAM_BAD_RESPONSE"),
        (
            [*said("Half", finish=False), rpc_error(Unavailable("broke off", reason="UPSTREAM_BAD_RESPONSE"))],
            "UPSTREAM_BAD_RESPONSE",
        ),
    ],
)
async def test_what_passes_is_asked_again_and_said(world: World, pieces: list[Any], reason: str) -> None:
    world.services.streams = [pieces, pieces, said("Whole.")]
    assert (await world.complete(REQUEST)).text == "Whole."
    failed = ["LlmCallStarted", "LlmCallFailed", "LlmCallWaiting"]
    assert world.kinds == [*failed, *failed, "LlmCallStarted", "LlmCallCompleted"]
    waits = world.recorder.events[2]
    assert (waits.model, waits.reason, waits.message) == ("m", reason, world.recorder.events[1].message)
    assert waits.retry_time.ToDatetime() < waits.give_up_time.ToDatetime()
    assert world.usage.value == Usage(1, 3, 2, 0.5)
    assert list(world.journal.journaled_responses) == [(request_hash(REQUEST, ""), 0)]


@pytest.mark.parametrize(
    ("reason", "text", "told"),
    [
        (pb.FINISH_REASON_CONTENT_FILTER, "I must not.", "MODEL_REFUSED"),
        (pb.FINISH_REASON_LENGTH, " \n\u200b", "ANSWER_BLANK"),
        # Of a release to come.
        (99, " ", "ANSWER_BLANK"),
    ],
)
async def test_an_answer_of_no_use_is_counted_and_ends_the_task(
    world: World, reason: pb.FinishReason.ValueType, text: str, told: str
) -> None:
    finish = pb.StreamCompleteResponse(finish=pb.Finish(reason=reason))
    world.services.streams = [[*said(text)[:-1], finish]] * 3
    with pytest.raises(TaskError) as failed:
        await world.complete(REQUEST)
    assert (failed.value.reason, failed.value.fatal) == (told, True)
    calls = len(world.services.asked)
    assert calls == (3 if told == "ANSWER_BLANK" else 1)
    assert world.kinds == ["LlmCallStarted", "LlmCallCompleted"] * calls
    assert world.recorder.events[-1].finish_reason == reason
    assert world.usage.value.llm_calls == calls
    assert not world.journal.journaled_responses


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
    call = asyncio.create_task(world.complete(REQUEST))
    while not streams:  # noqa: ASYNC110 - it begins within a few turns of the loop
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert world.kinds == ["LlmCallStarted", "LlmCallFailed"]
    assert streams[0].cancelled


async def test_blank_texts_are_embedded_as_something(world: World) -> None:
    world.services.answers = [pb.EmbedResponse(embeddings=[pb.Embedding(values=[1.0]), pb.Embedding(values=[0.5])])]
    reply = (await world.ask(embed={"model": "e", "texts": ["a", " \n"]})).embed
    assert [list(embedding.values) for embedding in reply.embeddings] == [[1.0], [0.5]]
    assert list(world.services.asked[0].texts) == ["a", "-"]


async def test_usage_carries_the_name_of_the_crew_and_answers_are_kept_under_the_request_without_it(
    world: World,
) -> None:
    world.services.streams = [said("Hello.")]
    world.services.answers = [pb.EmbedResponse(embeddings=[pb.Embedding(values=[1.0])])]
    await world.complete(REQUEST)
    await world.ask(embed={"model": "e", "texts": ["a"]})
    completed, embedded = world.services.asked
    assert dict(completed.completion.labels) == dict(embedded.labels) == {"crew": "brief"}
    assert list(world.journal.journaled_responses) == [(request_hash(REQUEST, ""), 0)]
    labelled = pb.Completion()
    labelled.CopyFrom(REQUEST)
    labelled.labels["crew"] = "another"
    assert request_hash(labelled, "") == request_hash(REQUEST, "")


async def test_a_question_is_asked_once_whatever_it_quotes(world: World) -> None:
    async def consider(text: str, question: str = "q", model: str = "m") -> str:
        completion = pb.Completion(
            model=model, messages=[pb.Message(role=pb.MESSAGE_ROLE_USER, content=[pb.ContentPart(text=text)])]
        )
        asked = {"completion": completion, "question": question, "dispensable": True}
        return (await world.ask(complete=asked)).complete.text

    blank = [pb.StreamCompleteResponse(finish=pb.Finish(reason=pb.FINISH_REASON_CONTENT_FILTER))]
    world.services.streams = [said("one"), blank, said("two"), said("three")]
    assert [await consider("as it is"), await consider("as it is now")] == ["one", "one"]
    # Answers of no use are kept, too, and nobody is asked again for them.
    assert [await consider("x", "blank"), await consider("y", "blank")] == ["", ""]
    assert [await consider("x", model="other"), await consider("x", "another")] == ["two", "three"]
    assert len(world.services.asked) == 4
    assert world.usage.value.llm_calls == 3, "what a provider withheld without a word about usage"


async def test_what_a_task_can_do_without_never_ends_it(world: World) -> None:
    world.services.streams = [[rpc_error(InvalidArgument("no", reason="UPSTREAM_REJECTED"))]] * 2
    for dispensable in (True, False):
        with pytest.raises(TaskError) as failed:
            await world.ask(complete={"completion": REQUEST, "question": "q", "dispensable": dispensable})
        assert failed.value.fatal is not dispensable


LARGEST = 4 * 1024 * 1024
LONG = [pb.StreamCompleteResponse(reasoning="x" * 2**20), *said(*["x" * 2**20] * 5)]


async def test_an_answer_that_no_message_can_hold_is_counted(world: World) -> None:
    world.services.streams = [LONG]
    with pytest.raises(TaskError) as failed:
        await world.complete(REQUEST)
    assert failed.value.reason == "ANSWER_TOO_LARGE"
    assert world.kinds == ["LlmCallStarted", "LlmCallFailed"]
    used = world.usage.value
    assert (used.llm_calls, used.input_tokens > 0) == (1, True)
    assert used.output_tokens > LARGEST // 4


async def test_a_question_with_too_long_an_answer_is_asked_once(world: World) -> None:
    world.services.streams = [LONG]
    asked = {"completion": REQUEST, "question": "q", "dispensable": True}
    assert [(await world.ask(complete=asked)).complete.text for _ in range(2)] == ["", ""]
    assert world.usage.value.llm_calls == 1


async def test_reasoning_that_is_wanted_back_counts_once(world: World) -> None:
    pieces = [
        piece
        for _ in range(3)
        for piece in (
            pb.StreamCompleteResponse(reasoning="x" * 2**20),
            pb.StreamCompleteResponse(thinking=pb.Thinking(text="x" * 2**20)),
        )
    ]
    world.services.streams = [[*pieces, *said("Done.")]]
    assert (await world.complete(REQUEST)).text == "Done."


async def test_a_kept_answer_that_no_message_can_hold_is_not_told_of(world: World) -> None:
    key = (request_hash(REQUEST, world.journal.salt), 0)
    world.journal.journaled_responses[key] = Answer(text="x" * (LARGEST + 1)).to_bytes()
    with pytest.raises(TaskError) as failed:
        await world.complete(REQUEST)
    assert (failed.value.reason, world.kinds) == ("ANSWER_TOO_LARGE", [])


async def test_the_largest_answer_that_is_taken_is_told_of_again(world: World) -> None:
    world.services.streams = [said("x" * LARGEST)]
    assert await world.complete(REQUEST) == await world.complete(REQUEST)
    assert len(world.services.asked) == 1


async def test_a_conversation_that_no_message_can_hold_is_too_long_for_the_model(world: World) -> None:
    part = pb.ContentPart(text="x" * (LARGEST // 2))
    message = pb.Message(role=pb.MESSAGE_ROLE_USER, content=[part, part])
    with pytest.raises(TaskError) as failed:
        await world.complete(pb.Completion(model="m", messages=[message]))
    assert (failed.value.reason, world.services.asked) == ("CONTEXT_WINDOW_EXCEEDED", [])


async def test_texts_that_no_message_can_hold_are_not_sent_again(world: World) -> None:
    refused = grpc.StatusCode.RESOURCE_EXHAUSTED
    words = "CLIENT: Sent message larger than max (5000000 vs. 4194304)"
    world.services.answers = [grpc.aio.AioRpcError(refused, grpc.aio.Metadata(), grpc.aio.Metadata(), details=words)]
    with pytest.raises(TaskError) as failed:
        await world.ask(embed=pb.EmbedRequest(model="e", texts=["x"]))
    assert (failed.value.reason, len(world.services.asked)) == ("RESPONSE_TOO_LARGE", 1)


async def test_a_model_whose_answer_can_be_done_without_is_not_waited_for(world: World) -> None:
    world.services.streams = [[rpc_error(Unavailable("down", reason="UPSTREAM_UNAVAILABLE"))]]
    with pytest.raises(TaskError):
        await world.ask(complete={"completion": REQUEST, "question": "q", "dispensable": True})
    assert len(world.services.asked) == 1
    assert world.kinds == ["LlmCallStarted", "LlmCallFailed"]
    assert (world.time.slept, world.rests) == ([], [])
