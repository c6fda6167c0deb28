"""What an upstream did is recorded even where its answer reaches nobody."""

import asyncio

import grpc
import pytest

from coxswain.models.v1 import inference_pb2
from coxswain.models.v1 import usage_pb2 as pb
from services.models.domain.tokens import estimate_prompt_tokens, estimate_tokens
from services.models.servicers.messages.inference import messages_from_proto
from tests.integration.models.support import CHAT, EMBED, Installation, ask, ask_stream, completion, refusal
from tests.support.llm_script import Fault, Reply

PROMPT_TOKENS = estimate_prompt_tokens(messages_from_proto(completion(CHAT).messages))


async def row(models: Installation, name: str, *, calls: int = 1) -> pb.UsageRow:
    """Return the usage of a model once it has so many calls."""
    async with asyncio.timeout(30):
        while True:
            response = await models.usage().QueryUsage(pb.QueryUsageRequest())
            found: list[pb.UsageRow] = [row for row in response.rows if row.model == name and row.calls >= calls]
            if found:
                return found[0]
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("good", [64, 640])
async def test_batches_that_succeeded_are_recorded_when_another_is_refused(served: Installation, good: int) -> None:
    served.llm.on(Reply(fault=Fault(status=400)), contains="refused")
    words = ["three good words"] * good
    failure = await refusal(
        served.inference().Embed(inference_pb2.EmbedRequest(model=EMBED, texts=[*words, "refused"]))
    )
    assert failure.reason == "UPSTREAM_REJECTED"
    recorded = await row(served, EMBED)
    answered = [call for call in served.llm.calls if call.outcome == "answered" and call.status == 200]
    assert recorded.input_tokens >= sum(3 * len(call.body["input"]) for call in answered) > 0


async def test_a_whole_answer_that_breaks_off_is_recorded_for_each_attempt(served: Installation) -> None:
    served.llm.on(Reply(text="never seen", cut_after_bytes=30))
    failure = await refusal(served.inference().Complete(ask(CHAT)))
    assert failure.reason == "UPSTREAM_UNAVAILABLE"
    assert len(served.llm.calls) == 4
    recorded = await row(served, CHAT)
    assert (recorded.calls, recorded.input_tokens) == (4, 4 * PROMPT_TOKENS)


async def test_an_attempt_that_broke_off_is_recorded_beside_the_answer(models: Installation) -> None:
    models.llm.on(Reply(text="never seen", cut_after_bytes=30), times=1)
    answer = await models.inference().Complete(ask(CHAT))
    recorded = await row(models, CHAT)
    assert (recorded.calls, recorded.input_tokens) == (2, PROMPT_TOKENS + answer.usage.input_tokens)
    assert not answer.usage.estimated


@pytest.mark.parametrize(
    ("streamed", "reply"),
    [(False, Reply(hang=True)), (True, Reply(hang=True)), (True, Reply(hang_after_chunks=0))],
    ids=["whole", "stream", "stream-begun"],
)
async def test_a_call_given_up_while_the_upstream_works_is_recorded(
    models: Installation, streamed: bool, reply: Reply
) -> None:
    models.llm.on(reply)
    call = (
        models.inference().StreamComplete(ask_stream(CHAT)).read()
        if streamed
        else models.inference().Complete(ask(CHAT))
    )
    giving_up = asyncio.ensure_future(call)
    await models.llm.wait_for_calls(1)
    giving_up.cancel()
    recorded = await row(models, CHAT)
    assert (recorded.calls, recorded.input_tokens, recorded.output_tokens) == (1, PROMPT_TOKENS, 0)


async def test_a_deadline_that_ends_while_the_upstream_works_is_recorded_once(models: Installation) -> None:
    models.llm.on(Reply(hang=True))
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await models.inference().Complete(ask(CHAT), timeout=1.5)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(models.llm.calls) == 1
    recorded = await row(models, CHAT)
    assert (recorded.calls, recorded.input_tokens) == (1, PROMPT_TOKENS)


async def test_what_an_upstream_refuses_is_free(models: Installation) -> None:
    models.llm.on(Reply(fault=Fault(status=500)))
    models.llm.on(Reply(drop=True), contains="lost")
    await refusal(models.inference().Complete(ask(CHAT)))
    await refusal(models.inference().Embed(inference_pb2.EmbedRequest(model=EMBED, texts=["lost"])))
    assert not (await models.usage().QueryUsage(pb.QueryUsageRequest())).rows


async def test_a_stream_that_ends_in_an_error_is_recorded_with_what_it_said(models: Installation) -> None:
    models.llm.on(Reply(chunks=["some words ", "of an answer"], drop_after_chunks=1))
    with pytest.raises(grpc.aio.AioRpcError):
        async for _ in models.inference().StreamComplete(ask_stream(CHAT)):
            pass
    recorded = await row(models, CHAT)
    assert (recorded.calls, recorded.input_tokens) == (1, PROMPT_TOKENS)
    assert recorded.output_tokens == estimate_tokens("some words ")
