"""What an upstream did is recorded even where its answer reaches nobody."""

import asyncio
from pathlib import Path

import grpc
import pytest

from coxswain.client import AsyncClient, CoxswainError
from coxswain.models.v1 import inference_pb2
from coxswain.models.v1 import usage_pb2 as pb
from services.models.domain.tokens import estimate_prompt_tokens, estimate_tokens
from services.models.providers.openai import client
from services.models.servicers.messages.inference import messages_from_proto
from tests.integration.models.read_limits import ReadLimits
from tests.integration.models.support import (
    CHAT,
    EMBED,
    Installation,
    ask,
    ask_stream,
    completion,
    outlasted,
    refusal,
    serve_models,
)
from tests.support.harness import ALICE
from tests.support.llm_replies import split_tokens
from tests.support.llm_script import Fault, Reply, Usage

PROMPT_TOKENS = estimate_prompt_tokens(messages_from_proto(completion(CHAT).messages))


async def row(models: Installation, name: str, *, calls: int = 1) -> pb.UsageRow:
    """Return the usage of a model once it has so many calls."""
    async with asyncio.timeout(60):
        while True:
            response = await models.usage().QueryUsage(pb.QueryUsageRequest())
            found: list[pb.UsageRow] = [row for row in response.rows if row.model == name and row.calls >= calls]
            if found:
                return found[0]
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("good", [64, 640])
async def test_batches_that_succeeded_are_recorded_when_another_is_refused(served: Installation, good: int) -> None:
    served.llm.on(Reply(hang=True, fault=Fault(status=400)), contains="refused")
    texts = [f"text number {number}" for number in range(good)]
    request = inference_pb2.EmbedRequest(model=EMBED, texts=[*texts, "refused"])
    embedding = asyncio.ensure_future(refusal(served.inference().Embed(request)))
    await served.llm.wait_for_calls(1, hanging=True)
    await served.llm.wait_for_calls(good // 64, outcome="answered")
    served.llm.release()
    assert (await embedding).reason == "UPSTREAM_REJECTED"
    recorded = await row(served, EMBED)
    # What had been answered but not read when the refusal came is estimated.
    counts = [(len(split_tokens(text)), estimate_tokens(text)) for text in texts]
    assert sum(map(min, counts)) <= recorded.input_tokens <= sum(map(max, counts))


async def test_a_whole_answer_that_breaks_off_is_recorded(served: Installation) -> None:
    served.llm.on(Reply(text="never seen", cut_after_bytes=30))
    failure = await refusal(served.inference().Complete(ask(CHAT)))
    assert failure.reason == "UPSTREAM_UNAVAILABLE"
    recorded = await row(served, CHAT)
    assert (recorded.calls, recorded.input_tokens) == (len(served.llm.calls), len(served.llm.calls) * PROMPT_TOKENS)


async def test_clients_do_not_repeat_by_themselves_what_the_upstream_has_billed(models: Installation) -> None:
    models.llm.on(Reply(raw_body='{"choices": []}'))
    async with AsyncClient(models.harness.address, token=ALICE) as client:
        with pytest.raises(CoxswainError, match="invalid response"):
            await client.inference.Complete(ask(CHAT))
        assert len(models.llm.calls) == 1
        with pytest.raises(CoxswainError, match="invalid response"):
            await client.inference.Embed(inference_pb2.EmbedRequest(model=EMBED, texts=["one"]))
        assert len(models.llm.calls) == 2


async def test_attempts_that_were_given_up_are_recorded_beside_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = ReadLimits(monkeypatch, client)
    async with serve_models(tmp_path, monkeypatch, first_byte_seconds=600) as models:
        models.llm.on(Reply(hang=True), times=2)
        answering = asyncio.ensure_future(models.inference().Complete(ask(CHAT)))
        await limits.pass_in(models, 1)
        await limits.pass_in(models, 2)
        answer = await answering
        assert len(models.llm.calls) == 3
        recorded = await row(models, CHAT, calls=3)
        assert (recorded.calls, recorded.estimated_calls) == (3, 2)
        assert recorded.input_tokens == 2 * PROMPT_TOKENS + answer.usage.input_tokens
        assert not answer.usage.estimated


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_that_is_of_no_use_is_recorded_as_it_was_counted(models: Installation, streamed: bool) -> None:
    counted = Usage(prompt_tokens=70, completion_tokens=9)
    models.llm.on(Reply(text="", chunks=[], finish_reason="error", usage=counted))
    with pytest.raises(grpc.aio.AioRpcError):
        if streamed:
            async for _ in models.inference().StreamComplete(ask_stream(CHAT)):
                pass
        else:
            await models.inference().Complete(ask(CHAT))
    recorded = await row(models, CHAT)
    assert (recorded.input_tokens, recorded.output_tokens) == (70 * recorded.calls, 9 * recorded.calls)
    assert recorded.calls == len(models.llm.calls)


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
    await outlasted(models, lambda seconds: models.inference().Complete(ask(CHAT), timeout=seconds), 1.5)
    assert len(models.llm.calls) == 1
    recorded = await row(models, CHAT)
    assert (recorded.calls, recorded.input_tokens) == (1, PROMPT_TOKENS)


async def test_what_an_upstream_refuses_is_free(models: Installation) -> None:
    models.llm.on(Reply(fault=Fault(status=500)))
    await refusal(models.inference().Complete(ask(CHAT)))
    await refusal(models.inference().Embed(inference_pb2.EmbedRequest(model=EMBED, texts=["refused"])))
    assert not (await models.usage().QueryUsage(pb.QueryUsageRequest())).rows


async def test_a_stream_that_ends_in_an_error_is_recorded_with_what_it_said(models: Installation) -> None:
    models.llm.on(Reply(chunks=["some words ", "of an answer"], drop_after_chunks=1))
    with pytest.raises(grpc.aio.AioRpcError):
        async for _ in models.inference().StreamComplete(ask_stream(CHAT)):
            pass
    recorded = await row(models, CHAT)
    assert (recorded.calls, recorded.input_tokens) == (1, PROMPT_TOKENS)
    assert recorded.output_tokens == estimate_tokens("some words ")
