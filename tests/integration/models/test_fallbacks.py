"""Calls that another model or another deployment answers, over gRPC and with several upstreams."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1 import usage_pb2
from tests.integration.models.support import (
    KEY,
    Installation,
    Refusal,
    ask,
    ask_stream,
    read_refusal,
    refusal,
    serve_models,
)
from tests.support.harness import BOB
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import Fault, Reply

FIRST, OTHER, LONG, TOOLS = "openai/first", "openai/other", "openai/long", "openai/tools"
_CHAT = {"provider": "openai", "capabilities": ["chat"]}
SEED: list[dict[str, Any]] = [
    {
        **_CHAT,
        "name": FIRST,
        "capabilities": ["chat", "tools"],
        "fallbacks": {"on_outage": [OTHER, TOOLS], "on_context_window": [LONG], "on_content_filter": [OTHER]},
    },
    {**_CHAT, "name": OTHER, "input_cost_per_million_tokens": 2.0, "output_cost_per_million_tokens": 8.0},
    {**_CHAT, "name": LONG},
    {**_CHAT, "name": TOOLS, "capabilities": ["chat", "tools"]},
]
DOWN = Reply(fault=Fault(status=503))
REFUSALS = {
    "outage": (DOWN, OTHER),
    "no connection": (Reply(drop=True), OTHER),
    "rate limit": (Reply(fault=Fault(status=429, retry_after="45")), OTHER),
    "quota": (Reply(fault=Fault(status=429, code="insufficient_quota")), OTHER),
    "window": (Reply(fault=Fault(status=400, code="context_length_exceeded")), LONG),
    "filter": (Reply(fault=Fault(status=400, code="content_filter")), OTHER),
    "withheld": (Reply(text="", finish_reason="content_filter"), OTHER),
}


@pytest.fixture
async def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Installation]:
    async with serve_models(tmp_path, monkeypatch, seed=SEED) as installation:
        yield installation


async def read(models: Installation, model: str, bearer: str = "") -> list[pb.StreamCompleteResponse]:
    inference = models.inference(bearer) if bearer else models.inference()
    return [piece async for piece in inference.StreamComplete(ask_stream(model))]


async def stream_refusal(models: Installation, model: str) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await read(models, model)
    return read_refusal(failed.value)


def called(llm: LlmEmulator) -> list[str]:
    return [call.model for call in llm.calls]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", REFUSALS)
async def test_another_model_answers_in_place_of_one_that_cannot(models: Installation, name: str, stream: bool) -> None:
    reply, expected = REFUSALS[name]
    models.llm.on(reply, model="first")
    models.llm.on(Reply(text="from another"))
    if stream:
        pieces = await read(models, FIRST)
        assert "".join(piece.text for piece in pieces) == "from another"
        assert pieces[-1].finish.answered_by == expected
        assert sum(piece.HasField("finish") for piece in pieces) == 1
    else:
        answer = await models.inference().Complete(ask(FIRST))
        assert (answer.text, answer.answered_by) == ("from another", expected)
    assert called(models.llm)[-1] == expected.partition("/")[2]


async def test_a_model_that_answers_itself_names_nobody(models: Installation) -> None:
    assert (await models.inference().Complete(ask(FIRST))).answered_by == ""
    assert (await read(models, FIRST))[-1].finish.answered_by == ""
    assert called(models.llm) == ["first", "first"]


async def test_usage_and_price_are_those_of_the_model_that_answered(models: Installation) -> None:
    models.llm.on(DOWN, model="first")
    answer = await models.inference().Complete(ask(FIRST))
    assert answer.usage.cost > 0
    request = usage_pb2.QueryUsageRequest(group_by=usage_pb2.USAGE_GROUPING_MODEL)
    rows = (await models.usage().QueryUsage(request)).rows
    assert [(row.key, row.calls) for row in rows] == [(OTHER, 1)]


async def test_both_are_billed_when_the_first_answer_is_withheld(models: Installation) -> None:
    models.llm.on(REFUSALS["withheld"][0], model="first")
    await models.inference().Complete(ask(FIRST))
    await read(models, FIRST)
    request = usage_pb2.QueryUsageRequest(group_by=usage_pb2.USAGE_GROUPING_MODEL)
    rows = (await models.usage().QueryUsage(request)).rows
    assert sorted((row.key, row.calls) for row in rows) == [(FIRST, 2), (OTHER, 2)]


async def test_models_that_cannot_do_what_is_asked_are_passed_over(models: Installation) -> None:
    models.llm.on(DOWN, model="first")
    tools = [pb.ToolDefinition(name="search")]
    assert (await models.inference().Complete(ask(FIRST, tools=tools))).answered_by == TOOLS
    assert "other" not in called(models.llm)


async def test_the_first_models_failure_is_told_when_all_are_down(models: Installation) -> None:
    models.llm.on(DOWN)
    for failure in (await refusal(models.inference().Complete(ask(FIRST))), await stream_refusal(models, FIRST)):
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")
        assert (failure.metadata["model"], failure.metadata["fallbacks"]) == (FIRST, f"{OTHER},{TOOLS}")
        assert failure.retry_after


async def test_an_answer_that_has_begun_stays_with_its_model(models: Installation) -> None:
    models.llm.on(Reply(text="one two three", error_after_chunks=1), model="first")
    failure = await stream_refusal(models, FIRST)
    assert failure.reason == "UPSTREAM_UNAVAILABLE"
    assert called(models.llm) == ["first"]


async def test_what_the_request_is_to_blame_for_is_told_at_once(models: Installation) -> None:
    models.llm.on(Reply(fault=Fault(status=422)), model="first")
    assert (await refusal(models.inference().Complete(ask(FIRST)))).reason == "UPSTREAM_REJECTED"
    models.llm.clear_rules()
    models.llm.on(Reply(fault=Fault(status=401)), model="first")
    assert (await refusal(models.inference().Complete(ask(FIRST)))).reason == "UPSTREAM_CREDENTIAL_REJECTED"
    assert set(called(models.llm)) == {"first"}


async def test_a_model_that_hangs_leaves_time_for_another(models: Installation) -> None:
    models.llm.on(Reply(hang=True), model="first")
    answer = await models.inference().Complete(ask(FIRST), timeout=6)
    assert answer.answered_by == OTHER
    assert called(models.llm).count("first") == 1


# Upstreams that are left alone


async def test_an_upstream_that_fails_in_a_row_costs_its_group_no_more_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_models(
        tmp_path, monkeypatch, seed=SEED, breaker_outages=4, breaker_pause_seconds=600, breaker_max_seconds=600
    ) as models:
        models.llm.on(DOWN, model="other")
        for _ in range(2):
            failure = await refusal(models.inference().Complete(ask(OTHER), timeout=60))
        assert len(models.llm.calls) == 4
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")
        assert 0 < (failure.retry_after or 0) <= 600
        assert (await stream_refusal(models, OTHER)).reason == "UPSTREAM_UNAVAILABLE"
        assert len(models.llm.calls) == 4
        # A model whose fallback is left alone asks the next one.
        models.llm.on(DOWN, model="first")
        assert (await models.inference().Complete(ask(FIRST))).answered_by == TOOLS
        assert called(models.llm).count("other") == 4
        # Another group finds out for itself.
        await refusal(models.inference(BOB).Complete(ask(OTHER), timeout=60))
        assert called(models.llm).count("other") == 8


async def test_an_upstream_is_used_again_when_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve_models(tmp_path, monkeypatch, seed=SEED, breaker_outages=2, breaker_pause_seconds=0.05) as models:
        models.llm.on(DOWN)
        for _ in range(3):
            await refusal(models.inference().Complete(ask(OTHER)))
        models.llm.clear_rules()

        async def answers() -> None:
            while True:
                try:
                    await models.inference().Complete(ask(OTHER))
                    return
                except grpc.aio.AioRpcError as error:
                    await asyncio.sleep(read_refusal(error).retry_after or 0)

        await asyncio.wait_for(answers(), 60)
        sent = len(models.llm.calls)
        await models.inference().Complete(ask(OTHER))
        assert len(models.llm.calls) == sent + 1


# Deployments


def spread(url: str, **fields: Any) -> list[dict[str, Any]]:
    """A model that is served at its provider's address, and more often at another one."""
    deployments = [{}, {"base_url": f"{url}/v1", "upstream_model": "two", "weight": 1000}]
    return [
        {**_CHAT, "name": "openai/spread", "deployments": deployments, **fields},
        {
            **_CHAT,
            "name": "openai/vectors",
            "capabilities": ["embeddings"],
            "embedding_dimension": 64,
            "deployments": [{"upstream_model": "embed"}, {**deployments[1], "upstream_model": "embed"}],
        },
    ]


async def test_a_call_goes_to_the_next_deployment_and_leaves_alone_what_asks_for_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with LlmEmulator(dimensions={"embed": 64}) as second:
        second.on(Reply(fault=Fault(status=429, retry_after="50")))
        async with serve_models(
            tmp_path, monkeypatch, seed=spread(second.url), keyless_origins=[second.url], retry_base_seconds=60
        ) as models:
            while not second.calls:
                await models.inference().Complete(ask("openai/spread"))
            assert [call.model for call in second.calls] == ["two"]
            sent = len(models.llm.calls)
            for _ in range(10):
                await models.inference().Complete(ask("openai/spread"))
                await read(models, "openai/spread")
            assert (len(second.calls), len(models.llm.calls)) == (1, sent + 20)
            # The pause is that group's.
            while len(second.calls) < 2:
                await models.inference(BOB).Complete(ask("openai/spread"))
            # Vectors come from another deployment, and never from another model.
            request = pb.EmbedRequest(model="openai/vectors", texts=["hello"])
            while len(second.calls) < 3:
                assert (await models.inference().Embed(request)).model == "openai/vectors"


async def test_a_key_goes_to_no_deployment_at_another_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with LlmEmulator() as foreign:
        async with serve_models(tmp_path, monkeypatch, seed=spread(foreign.url)) as models:
            for _ in range(10):
                await models.inference().Complete(ask("openai/spread"))
                await read(models, "openai/spread")
        assert foreign.calls == []
        assert {call.bearer for call in models.llm.calls} == {KEY}


async def test_all_deployments_down_is_an_outage_that_lets_a_fallback_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with LlmEmulator() as second:
        second.on(DOWN)
        seed = [*spread(second.url, fallbacks={"on_outage": [OTHER]}), {**_CHAT, "name": OTHER}]
        async with serve_models(tmp_path, monkeypatch, seed=seed, keyless_origins=[second.url]) as models:
            models.llm.on(DOWN, model="spread")
            assert (await models.inference().Complete(ask("openai/spread"))).answered_by == OTHER
            assert second.calls
            assert called(models.llm)[-1] == "other"


# Answers that break off


@pytest.mark.parametrize("knows", [False, True], ids=["unknown", "idempotent"])
async def test_an_answer_that_breaks_off_is_asked_for_again_only_where_it_is_billed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knows: bool
) -> None:
    async with LlmEmulator() as upstream:
        upstream.on(Reply(text="a whole answer", cut_after_bytes=20), times=1)
        async with serve_models(
            tmp_path,
            monkeypatch,
            seed=SEED,
            openai_base_url=f"{upstream.url}/v1",
            keyless_origins=[upstream.url],
            key="",
            idempotent_origins=[upstream.url] if knows else [],
        ) as models:
            if knows:
                await models.inference().Complete(ask(OTHER))
                await models.inference().Complete(ask(OTHER))
            else:
                failure = await refusal(models.inference().Complete(ask(OTHER)))
                assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")
        keys = [call.headers.get("idempotency-key") for call in upstream.calls]
        if knows:
            assert keys[0]
            assert keys[0] == keys[1] != keys[2]
        else:
            assert keys == [None]
