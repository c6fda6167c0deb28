"""Vectors over real gRPC: their length, their batches, and what is not sent upstream again."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1 import model_pb2, usage_pb2
from tests.integration.models.support import EMBED, Installation, refusal, serve_models
from tests.support.harness import ALICE, BOB
from tests.support.llm_script import Fault, Reply, Usage
from tests.support.waiting import until

FREE = "openai/free"
PRICED = "openai/priced"
CAROL = "dev:carol:sales=admin"
SEED: list[dict[str, Any]] = [
    {"name": EMBED, "provider": "openai", "capabilities": ["embeddings"], "embedding_dimension": 64},
    {"name": FREE, "provider": "openai", "capabilities": ["embeddings"]},
    {
        "name": PRICED,
        "provider": "openai",
        "capabilities": ["embeddings"],
        "input_cost_per_million_tokens": 2.0,
        "max_texts_per_request": 2,
    },
    {"name": "databricks/embed", "provider": "databricks", "capabilities": ["embeddings"]},
    {"name": "offline/embed", "provider": "offline", "capabilities": ["embeddings"], "embedding_dimension": 256},
]


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    async with serve_models(tmp_path, monkeypatch, seed=SEED) as installation:
        yield installation


def request(*texts: str, model: str = EMBED, dimensions: int = 0) -> pb.EmbedRequest:
    return pb.EmbedRequest(model=model, texts=texts, dimensions=dimensions)


def array(response: pb.EmbedResponse) -> Any:
    return np.array([embedding.values for embedding in response.embeddings], dtype=np.float32)


async def used(world: Installation, bearer: str = ALICE) -> usage_pb2.UsageRow:
    rows = (await world.usage(bearer).QueryUsage(usage_pb2.QueryUsageRequest())).rows
    return rows[0] if rows else usage_pb2.UsageRow()


# Dimensions


@pytest.mark.parametrize("model", [EMBED, FREE, "databricks/embed"])
async def test_dimensions_reach_the_upstream_and_go_before_the_models_own_number(
    world: Installation, model: str
) -> None:
    response = await world.inference().Embed(request("a", "b", model=model, dimensions=16))
    assert (response.dimension, array(response).shape) == (16, (2, 16))
    assert world.llm.calls[0].body["dimensions"] == 16
    await world.inference().Embed(request("a", "b", model=model))
    assert "dimensions" not in world.llm.calls[1].body


async def test_vectors_of_another_length_than_asked_for_are_an_error(world: Installation) -> None:
    world.llm.on(Reply(vectors=[[1.0, 0.0, 0.0]]))
    failure = await refusal(world.inference().Embed(request("a", model=FREE, dimensions=2)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "EMBEDDING_MISMATCH")
    assert (failure.metadata["expected_dimension"], failure.metadata["actual_dimension"]) == ("2", "3")
    assert "leave dimensions out" in failure.message


async def test_an_upstream_that_cannot_shorten_its_vectors_says_so(world: Installation) -> None:
    message = "Model does not support matryoshka representation, changing output dimensions will lead to poor results."
    world.llm.on(Reply(fault=Fault(status=400, message=message)), has_field="dimensions")
    failure = await refusal(world.inference().Embed(request("a", "b", dimensions=2)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UPSTREAM_REJECTED")
    assert message[:50] in failure.message
    assert len(world.llm.calls) == 1


async def test_the_packaged_model_takes_its_own_number_only(world: Installation) -> None:
    failure = await refusal(world.inference().Embed(request("a", model="offline/embed", dimensions=64)))
    assert (failure.code, failure.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["dimensions"])
    assert "256" in failure.message
    assert (await world.inference().Embed(request("a", model="offline/embed", dimensions=256))).dimension == 256


async def test_more_dimensions_than_a_response_can_carry_are_refused_before_they_are_paid_for(
    world: Installation,
) -> None:
    texts = [f"text {number}" for number in range(300)]
    failure = await refusal(world.inference().Embed(request(*texts, model=FREE, dimensions=8192)))
    assert failure.fields == ["texts"]
    failure = await refusal(world.inference().Embed(request("a", model=FREE, dimensions=-1)))
    assert failure.fields == ["dimensions"]
    assert world.llm.calls == []


# Batches


async def test_a_model_says_how_many_texts_its_upstream_takes(served: Installation) -> None:
    model = model_pb2.Model(
        name="openai/small",
        provider=model_pb2.PROVIDER_OPENAI,
        upstream_model="embed",
        capabilities=model_pb2.Capabilities(embeddings=True),
        max_texts_per_request=3,
    )
    created = await served.models().CreateModel(model_pb2.CreateModelRequest(model=model))
    assert created.model.max_texts_per_request == 3
    await served.inference().Embed(request(*"abcdefg", model="openai/small"))
    assert sorted(len(call.body["input"]) for call in served.llm.calls) == [1, 3, 3]
    change = model_pb2.UpdateModelRequest(name="openai/small", model=model_pb2.Model(max_texts_per_request=7))
    change.update_mask.paths.append("max_texts_per_request")
    await served.models().UpdateModel(change)
    served.llm.clear_log()
    await served.inference().Embed(request(*"abcdefg", model="openai/small"))
    assert [len(call.body["input"]) for call in served.llm.calls] == [7]


async def test_a_batch_that_is_too_large_for_the_upstream_is_cut_and_the_size_remembered(world: Installation) -> None:
    words = (
        "Too many inputs. The max number of inputs is 16. We hope to increase the number of inputs per request soon."
    )
    world.llm.on(Reply(fault=Fault(status=400, message=words)), more_inputs_than=16)
    texts = [f"text number {number}" for number in range(40)]
    many = array(await world.inference().Embed(request(*texts)))
    for position in (0, 15, 16, 39):
        alone = array(await world.inference(BOB).Embed(request(texts[position])))
        assert np.allclose(many[position], alone[0], atol=1e-6)
    world.llm.clear_log()
    await world.inference().Embed(request(*[f"other {number}" for number in range(40)]))
    assert sorted(len(call.body["input"]) for call in world.llm.calls) == [8, 16, 16]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=400, message="Unknown field encoding_format"),
        Fault(
            status=422,
            body='{"detail":[{"type":"extra_forbidden","loc":["body","encoding_format"],'
            '"msg":"Extra inputs are not permitted","input":"base64"}]}',
        ),
    ],
    ids=["unknown", "extra_forbidden"],
)
async def test_an_upstream_without_encodings_is_asked_without_and_this_is_remembered(
    world: Installation, fault: Fault
) -> None:
    world.llm.on(Reply(fault=fault), has_field="encoding_format")
    assert array(await world.inference().Embed(request("a", "b"))).shape == (2, 64)
    await world.inference().Embed(request("c"))
    assert ["encoding_format" in call.body for call in world.llm.calls] == [True, False, False]
    await world.inference(BOB).Embed(request("c"))
    assert "encoding_format" in world.llm.calls[3].body


async def test_other_refusals_are_not_taken_for_one_of_the_encoding(world: Installation) -> None:
    world.llm.on(Reply(fault=Fault(status=400, message="Unknown model")))
    await refusal(world.inference().Embed(request("a")))
    assert len(world.llm.calls) == 1


# What is at hand


async def test_equal_calls_at_once_are_one_request_upstream_and_billed_once(served: Installation) -> None:
    served.llm.on(Reply(hang=True, usage=Usage(prompt_tokens=7, completion_tokens=0)), times=1)
    asked = asyncio.gather(*(served.inference().Embed(request("a", "bb")) for _ in range(32)))
    await served.llm.wait_for_calls(1, hanging=True)
    served.llm.release()
    responses = await asked
    assert len(served.llm.calls) == 1
    assert len({response.embeddings[1].SerializeToString() for response in responses}) == 1
    assert sorted(response.usage.input_tokens for response in responses) == [0] * 31 + [7]
    row = await used(served)
    assert (row.calls, row.input_tokens) == (1, 7)


async def test_only_texts_that_are_not_at_hand_are_sent_and_billed(world: Installation) -> None:
    first = await world.inference().Embed(request("same", "same", "other"))
    assert world.llm.calls[0].body["input"] == ["same", "other"]
    assert np.array_equal(array(first)[0], array(first)[1])
    second = await world.inference(CAROL).Embed(request("new", "other", "same"))
    assert world.llm.calls[1].body["input"] == ["new"]
    assert np.array_equal(array(second)[1:], array(first)[[2, 0]])
    third = await world.inference().Embed(request("same"))
    assert len(world.llm.calls) == 2
    assert third.usage == pb.Usage()
    assert (await used(world)).calls == 2
    assert (await used(world)).input_tokens == first.usage.input_tokens + second.usage.input_tokens


async def test_groups_share_no_vector(world: Installation) -> None:
    for bearer in (ALICE, BOB, ALICE, BOB):
        await world.inference(bearer).Embed(request("a"))
    assert len(world.llm.calls) == 2


async def test_vectors_of_another_length_or_model_are_others(world: Installation) -> None:
    for dimensions, model in ((0, EMBED), (8, EMBED), (8, FREE), (0, EMBED)):
        response = await world.inference().Embed(request("a", model=model, dimensions=dimensions))
        assert response.dimension == (dimensions or 64)
    assert len(world.llm.calls) == 3


async def test_a_changed_model_makes_new_vectors(served: Installation) -> None:
    model = model_pb2.Model(
        name="openai/mine",
        provider=model_pb2.PROVIDER_OPENAI,
        upstream_model="embed",
        capabilities=model_pb2.Capabilities(embeddings=True),
    )
    await served.models().CreateModel(model_pb2.CreateModelRequest(model=model))
    await served.inference().Embed(request("a", model="openai/mine"))
    change = model_pb2.UpdateModelRequest(name="openai/mine", model=model_pb2.Model(upstream_model="embed2"))
    change.update_mask.paths.append("upstream_model")
    await served.models().UpdateModel(change)
    await served.inference().Embed(request("a", model="openai/mine"))
    assert [call.model for call in served.llm.calls] == ["embed", "embed2"]


async def test_without_memory_every_call_goes_upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve_models(tmp_path, monkeypatch, seed=SEED, embed_cache_bytes=0) as installation:
        for _ in range(2):
            await installation.inference().Embed(request("a"))
        assert len(installation.llm.calls) == 2


async def test_a_caller_that_goes_away_ends_the_upstreams_call_when_nobody_else_waits(world: Installation) -> None:
    world.llm.on(Reply(hang=True))
    kept = asyncio.gather(*(world.inference().Embed(request("a")) for _ in range(2)))
    left = [world.inference().Embed(request("a")) for _ in range(2)]
    ended = asyncio.gather(*(call.code() for call in left))
    await world.llm.wait_for_calls(1, hanging=True)
    for call in left:
        call.cancel()
    assert set(await ended) == {grpc.StatusCode.CANCELLED}
    world.llm.clear_rules()
    world.llm.release()
    await kept
    assert len(world.llm.calls) == 1

    world.llm.on(Reply(hang=True))
    alone = world.inference().Embed(request("b"))
    waits = asyncio.create_task(alone.code())
    await world.llm.wait_for_calls(1, hanging=True)
    alone.cancel()
    await waits
    await world.llm.wait_for_calls(1, outcome="client_disconnected")


async def test_a_failure_is_that_of_every_call_that_waited_and_the_next_one_tries_again(world: Installation) -> None:
    world.llm.on(Reply(hang=True, fault=Fault(status=400, message="Unknown model")), times=1)
    asked = [asyncio.create_task(refusal(world.inference().Embed(request("a")))) for _ in range(8)]
    await world.llm.wait_for_calls(1, hanging=True)
    loads = world.harness.services["models"]._vectors._loads  # type: ignore[attr-defined]
    await until(lambda: [load.waiters for load, _ in loads.values()] == [8], "all of them wait")
    world.llm.release()
    assert {failure.reason for failure in await asyncio.gather(*asked)} == {"UPSTREAM_REJECTED"}
    await world.inference().Embed(request("a"))
    assert (await used(world)).calls == 1


async def test_what_was_billed_before_a_failure_is_recorded_and_not_sent_again(served: Installation) -> None:
    model = model_pb2.Model(
        name=PRICED,
        provider=model_pb2.PROVIDER_OPENAI,
        upstream_model="embed",
        capabilities=model_pb2.Capabilities(embeddings=True),
        max_texts_per_request=2,
    )
    model.input_cost_per_million_tokens = 2.0
    await served.models().CreateModel(model_pb2.CreateModelRequest(model=model))
    served.llm.on(Reply(hang=True, fault=Fault(status=400, message="no such thing")), contains="bad", times=1)
    served.llm.on(Reply(usage=Usage(prompt_tokens=5, completion_tokens=0)))
    asked = asyncio.create_task(refusal(served.inference().Embed(request(*"abcd", "bad", model=PRICED))))
    await served.llm.wait_for_calls(2, status=200, outcome="answered")
    await served.llm.wait_for_calls(1, hanging=True)
    served.llm.release()
    assert (await asked).reason == "UPSTREAM_REJECTED"
    row = await used(served)
    assert (row.calls, row.input_tokens) == (1, 10)
    assert row.cost == pytest.approx(20 / 1e6)
    served.llm.clear_log()
    await served.inference().Embed(request(*"abcd", "fine", model=PRICED))
    assert [call.body["input"] for call in served.llm.calls] == [["fine"]]
