"""Calls that another model or another deployment answers, over gRPC and with several upstreams."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.auth.v1 import secret_pb2, secret_service_pb2_grpc
from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1 import model_pb2, usage_pb2
from services.models.price_list import find_listed
from tests.integration.models.support import (
    CHAT,
    EMBED,
    KEY,
    OFFLINE,
    REASONER,
    Installation,
    Refusal,
    ask,
    ask_stream,
    in_time,
    read_refusal,
    refusal,
    serve_models,
)
from tests.support.harness import ALICE, BOB
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import Fault, Reply, Usage

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


async def billed(models: Installation) -> dict[str, int]:
    """Return the calls that are recorded, by model."""
    response = await models.usage().QueryUsage(usage_pb2.QueryUsageRequest())
    return {row.model: row.calls for row in response.rows}


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
    assert await billed(models) == {OTHER: 1}


async def test_both_are_billed_when_the_first_answer_is_withheld(models: Installation) -> None:
    models.llm.on(REFUSALS["withheld"][0], model="first")
    await models.inference().Complete(ask(FIRST))
    await read(models, FIRST)
    assert await billed(models) == {FIRST: 2, OTHER: 2}


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

    async def call(seconds: float) -> Any:
        models.llm.clear_log()
        return await models.inference().Complete(ask(FIRST), timeout=seconds)

    assert (await in_time(call, 6)).answered_by == OTHER
    assert called(models.llm).count("first") == 1


# Upstreams that are left alone


async def test_an_upstream_that_fails_in_a_row_costs_its_group_no_more_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_models(
        tmp_path, monkeypatch, seed=SEED, breaker_outages=4, breaker_pause_seconds=600, breaker_max_seconds=600
    ) as models:
        models.llm.on(DOWN, model="other")
        await refusal(models.inference().Complete(ask(OTHER), timeout=60))
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


async def test_a_call_has_the_price_of_the_deployment_that_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployments = [{"upstream_model": "gpt-4o"}, {"upstream_model": "gpt-4o-mini", "weight": 1000}]
    seed = [{**_CHAT, "name": "openai/spread", "deployments": deployments}]
    costs: list[float] = []
    async with serve_models(tmp_path, monkeypatch, seed=seed, retry_base_seconds=0.01) as models:
        models.llm.on(Reply(fault=Fault(status=429, retry_after="50")), model="gpt-4o-mini", stream=True)
        models.llm.on(Reply(text="yes", usage=Usage(prompt_tokens=1_000_000, completion_tokens=0)))
        whole = await models.inference().Complete(ask("openai/spread"))
        async for piece in models.inference().StreamComplete(ask_stream("openai/spread")):
            if piece.HasField("usage"):
                costs.append(piece.usage.cost)
        dear, cheap = (find_listed(f"openai/{name}") for name in ("gpt-4o", "gpt-4o-mini"))
        assert dear is not None
        assert cheap is not None
        assert [call.model for call in models.llm.calls] == ["gpt-4o-mini", "gpt-4o-mini", "gpt-4o"]
        assert [whole.usage.cost, *costs] == pytest.approx([cheap.input, dear.input])
        sums = await models.usage().QueryUsage(usage_pb2.QueryUsageRequest())
        assert sums.rows[0].cost == pytest.approx((cheap.input or 0) + (dear.input or 0))


async def store_key(models: Installation, bearer: str, *origins: str) -> None:
    stub = secret_service_pb2_grpc.SecretServiceStub(models.harness.channel(bearer))
    await stub.PutSecret(secret_pb2.PutSecretRequest(name="llm/openai", value=KEY, allowed_origins=origins))


async def test_a_call_goes_to_the_next_deployment_and_leaves_alone_what_asks_for_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with LlmEmulator(dimensions={"embed": 64}) as second:
        second.on(Reply(fault=Fault(status=429, retry_after="50")))
        async with serve_models(tmp_path, monkeypatch, seed=spread(second.url), retry_base_seconds=60) as models:
            await store_key(models, ALICE, models.llm.url, second.url)
            await store_key(models, BOB, models.llm.url, second.url)
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
            # Vectors come from another deployment, and never from another model. A text is sent upstream once.
            numbers = itertools.count()
            while len(second.calls) < 3:
                request = pb.EmbedRequest(model="openai/vectors", texts=[f"hello {next(numbers)}"])
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
        async with serve_models(tmp_path, monkeypatch, seed=seed) as models:
            await store_key(models, ALICE, models.llm.url, second.url)
            models.llm.on(DOWN, model="spread")
            assert (await models.inference().Complete(ask("openai/spread"))).answered_by == OTHER
            assert second.calls
            assert called(models.llm)[-1] == "other"


# Answers that break off


async def recorded(models: Installation) -> int:
    """Return how many calls have been recorded."""
    return sum(row.calls for row in (await models.usage().QueryUsage(usage_pb2.QueryUsageRequest())).rows)


@pytest.mark.parametrize("reply", [{"cut_after_bytes": 20}, {"hang_after_bytes": 20}], ids=["cut", "stalled"])
@pytest.mark.parametrize("knows", [False, True], ids=["unknown", "idempotent"])
async def test_an_answer_that_breaks_off_is_asked_for_again_only_where_it_is_billed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knows: bool, reply: dict[str, Any]
) -> None:
    async with LlmEmulator() as upstream:
        upstream.on(Reply(text="a whole answer", **reply), times=1)
        async with serve_models(
            tmp_path,
            monkeypatch,
            seed=SEED,
            openai_base_url=f"{upstream.url}/v1",
            keyless_origins=[upstream.url],
            key="",
            idempotent_origins=[upstream.url] if knows else [],
            idle_seconds=2,
            max_attempts=2,
        ) as models:
            if knows:
                await models.inference().Complete(ask(OTHER))
                await models.inference().Complete(ask(OTHER))
                # What was asked for again was made once; what never came whole was made too.
                assert await recorded(models) == 2
                upstream.on(Reply(text="a whole answer", **reply))
                await refusal(models.inference().Complete(ask(OTHER)))
                assert await recorded(models) == 3
            else:
                failure = await refusal(models.inference().Complete(ask(OTHER)))
                assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")
        keys = [call.headers.get("idempotency-key") for call in upstream.calls]
        if knows:
            assert keys[0]
            assert keys[0] == keys[1] != keys[2]
        else:
            assert keys == [None]


# Configuration


def configured(**fields: Any) -> model_pb2.Model:
    return model_pb2.Model(
        name="sales/own",
        **{"provider": "PROVIDER_OPENAI", "capabilities": model_pb2.Capabilities(chat=True), **fields},
    )


async def create(models: Installation, **fields: Any) -> model_pb2.Model:
    request = model_pb2.CreateModelRequest(model=configured(**fields))
    created: model_pb2.Model = (await models.models().CreateModel(request)).model
    return created


async def test_fallbacks_and_deployments_are_kept_and_changed_one_by_one(served: Installation) -> None:
    created = await create(
        served,
        fallbacks=model_pb2.Fallbacks(on_outage=[REASONER, OFFLINE], on_content_filter=[CHAT]),
        deployments=[
            model_pb2.Deployment(weight=3),
            model_pb2.Deployment(base_url="https://example.com/v1", upstream_model="two"),
        ],
    )
    stub = served.models()
    assert (await stub.GetModel(model_pb2.GetModelRequest(id=created.id))).model == created
    assert list(created.fallbacks.on_outage) == [REASONER, OFFLINE]
    assert [deployment.weight for deployment in created.deployments] == [3, 0]
    request = model_pb2.UpdateModelRequest(
        id=created.id,
        model=model_pb2.Model(fallbacks=model_pb2.Fallbacks(on_outage=[CHAT])),
        update_mask=FieldMask(paths=["fallbacks.onOutage", "deployments"]),
    )
    changed = (await stub.UpdateModel(request)).model
    assert changed.fallbacks == model_pb2.Fallbacks(on_outage=[CHAT], on_content_filter=[CHAT])
    assert not changed.deployments
    request = model_pb2.UpdateModelRequest(
        id=created.id, model=model_pb2.Model(), update_mask=FieldMask(paths=["fallbacks"])
    )
    assert not (await stub.UpdateModel(request)).model.HasField("fallbacks")
    assert not (await stub.GetModel(model_pb2.GetModelRequest(id=created.id))).model.HasField("fallbacks")


def deployed(*base_urls: str) -> list[model_pb2.Deployment]:
    return [model_pb2.Deployment(base_url=base_url) for base_url in base_urls]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"deployments": deployed("", "nowhere")}, "model.deployments[1].base_url"),
        ({"deployments": deployed("", "https://user@example.com/")}, "model.deployments[1].base_url"),
        ({"deployments": deployed("", "https://example.com/?a=b")}, "model.deployments[1].base_url"),
        ({"deployments": deployed("", "https://example.com", "https://example.com")}, "model.deployments[2]"),
        ({"deployments": [model_pb2.Deployment(weight=-1)]}, "model.deployments[0].weight"),
        (
            {"deployments": deployed(""), "provider": "PROVIDER_OFFLINE", "upstream_model": "extract"},
            "model.deployments",
        ),
        (
            {
                "deployments": [model_pb2.Deployment(), model_pb2.Deployment(upstream_model="nobody/m")],
                "provider": "PROVIDER_LITELLM",
                "upstream_model": "groq/m",
            },
            "model.deployments[1].upstream_model",
        ),
        (
            {
                "deployments": deployed("https://example.com"),
                "provider": "PROVIDER_LITELLM",
                "upstream_model": "groq/m",
            },
            "model.deployments[0].base_url",
        ),
        ({"fallbacks": {"on_outage": [CHAT, "openai/cha"]}}, "model.fallbacks.on_outage[1]"),
        ({"fallbacks": {"on_context_window": ["sales/own"]}}, "model.fallbacks.on_context_window[0]"),
        ({"fallbacks": {"on_content_filter": [EMBED]}}, "model.fallbacks.on_content_filter[0]"),
        ({"fallbacks": {"on_outage": [CHAT, CHAT]}}, "model.fallbacks.on_outage"),
        ({"fallbacks": {"on_outage": [CHAT]}, "capabilities": {"embeddings": True}}, "model.fallbacks"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_cannot_work_is_refused_by_its_path(
    usual_models: Installation, fields: dict[str, Any], path: str
) -> None:
    failure = await refusal(create(usual_models, **fields))
    assert (failure.code, failure.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [path])
    if path.endswith("on_outage[1]"):
        assert f'did you mean "{CHAT}"' in failure.message


@pytest.fixture
async def usual_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Installation]:
    async with serve_models(tmp_path, monkeypatch) as installation:
        yield installation


async def test_a_deployment_leads_where_groups_may_go_only(usual_models: Installation) -> None:
    failure = await refusal(create(usual_models, deployments=deployed("", "https://127.0.0.1/v1")))
    assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "DESTINATION_NOT_ALLOWED")
    assert failure.fields == ["model.deployments[1].base_url"]
    # A name is looked at when it is called, and the other deployment answers.
    await create(usual_models, upstream_model="chat", deployments=deployed("", "https://localhost:1/v1"))
    for _ in range(8):
        await usual_models.inference().Complete(ask("sales/own"))


async def test_a_fallback_that_is_deleted_later_hinders_neither_calls_nor_changes(usual_models: Installation) -> None:
    stub = usual_models.models()
    other = configured(upstream_model="chat")
    other.name = "sales/other"
    await stub.CreateModel(model_pb2.CreateModelRequest(model=other))
    await create(usual_models, upstream_model="chat", fallbacks={"on_outage": ["sales/other"]})
    await stub.DeleteModel(model_pb2.DeleteModelRequest(name="sales/other"))
    request = model_pb2.UpdateModelRequest(
        name="sales/own", model=model_pb2.Model(description="new"), update_mask=FieldMask(paths=["description"])
    )
    assert (await stub.UpdateModel(request)).model.description == "new"
    usual_models.llm.on(DOWN)
    failure = await refusal(usual_models.inference().Complete(ask("sales/own")))
    assert "fallbacks" not in failure.metadata


async def test_another_groups_model_is_no_fallback(usual_models: Installation) -> None:
    other = configured(upstream_model="chat")
    other.name = "legal/own"
    await usual_models.models(BOB).CreateModel(model_pb2.CreateModelRequest(model=other))
    failure = await refusal(create(usual_models, fallbacks={"on_outage": ["legal/own"]}))
    assert failure.fields == ["model.fallbacks.on_outage[0]"]
    assert "did you mean" not in failure.message
