"""Other providers, through litellm in its helper process, against the LLM emulator."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import pytest_asyncio

from coxswain.models.v1 import inference_pb2 as pb
from services.common.grpc.json_values import to_struct
from tests.integration.models.support import Installation, ask, ask_stream, refusal, serve_models
from tests.support.llm_emulator import DEFAULT_DIMENSIONS, LlmEmulator
from tests.support.llm_script import Fault, Reply, ToolCall, Usage
from tests.support.private_files import environment_of
from tests.support.text_vectors import embed_text

# Each start of the helper costs seconds of CPU: one for the whole file.
# A helper starts at low priority: on a busy machine the first call waits for minutes.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]
MODEL = "together_ai/some-model"
KEY = "tgt-marked-9c1d7e"
SEED: list[dict[str, Any]] = [
    {
        "name": MODEL,
        "provider": "litellm",
        "upstream_model": MODEL,
        "capabilities": ["chat", "tools"],
        "input_cost_per_million_tokens": 1.0,
    },
    {
        "name": "together_ai/embed",
        "provider": "litellm",
        "upstream_model": "together_ai/embed",
        "capabilities": ["embeddings"],
    },
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Installation, LlmEmulator]]:
    with pytest.MonkeyPatch.context() as patch:
        async with LlmEmulator() as upstream:
            patch.setenv("TOGETHER_AI_API_KEY", KEY)
            patch.setenv("TOGETHER_AI_BASE_URL", f"{upstream.url}/v1")
            async with serve_models(
                tmp_path_factory.mktemp("litellm"),
                patch,
                key="",
                seed=SEED,
                litellm_base_urls={"together_ai": f"{upstream.url}/v1"},
            ) as installation:
                yield installation, upstream


@pytest.fixture
def installation(_served: tuple[Installation, LlmEmulator]) -> Installation:
    return _served[0]


@pytest.fixture
def upstream(_served: tuple[Installation, LlmEmulator]) -> LlmEmulator:
    _served[1].clear_rules()
    _served[1].clear_log()
    return _served[1]


def helpers() -> list[psutil.Process]:
    return [
        child for child in psutil.Process().children() if any("litellm/process.py" in part for part in child.cmdline())
    ]


async def test_a_call_goes_through_the_helper_with_the_key_and_comes_back_whole(
    installation: Installation, upstream: LlmEmulator
) -> None:
    upstream.on(Reply(text="Bonjour", usage=Usage(prompt_tokens=10, completion_tokens=2)))
    answer = await installation.inference().Complete(ask(MODEL))
    assert (answer.text, answer.finish_reason) == ("Bonjour", pb.FINISH_REASON_STOP)
    assert answer.usage == pb.Usage(input_tokens=10, output_tokens=2, cost=1e-5)
    (call,) = upstream.calls
    assert (call.bearer, call.body["model"]) == (KEY, "some-model")


async def test_a_stream_and_tool_calls_come_back_piece_by_piece(
    installation: Installation, upstream: LlmEmulator
) -> None:
    upstream.on(Reply(tool_calls=[ToolCall(name="lookup", arguments={"a": 1})]), offers_tool="lookup")
    upstream.on(Reply(chunks=["one ", "two ", "three"], hang_after_chunks=1))
    call = installation.inference().StreamComplete(ask_stream(MODEL))
    # A piece is here before the next one is anywhere.
    pieces = [await call.read()]
    assert pieces[0].text == "one "
    upstream.release()
    pieces += [piece async for piece in call]
    assert "".join(piece.text for piece in pieces) == "one two three"
    assert [piece.WhichOneof("delta") for piece in pieces[-2:]] == ["usage", "finish"]
    tool = pb.ToolDefinition(name="lookup", parameters_schema=to_struct({"type": "object", "properties": {}}))
    pieces = [piece async for piece in installation.inference().StreamComplete(ask_stream(MODEL, tools=[tool]))]
    assert pieces[-1].finish.reason == pb.FINISH_REASON_TOOL_CALLS
    assert "".join(piece.tool_call.arguments_json for piece in pieces) == '{"a": 1}'


async def test_embeddings_come_in_order_and_in_batches(installation: Installation, upstream: LlmEmulator) -> None:
    texts = [f"text number {n}" for n in range(100)]
    response = await installation.inference().Embed(pb.EmbedRequest(model="together_ai/embed", texts=texts))
    assert len(response.embeddings) == 100
    for number in (0, 63, 64, 99):
        expected = embed_text(texts[number], DEFAULT_DIMENSIONS)
        assert list(response.embeddings[number].values) == pytest.approx(expected, abs=1e-6)
    assert sorted(len(call.body["input"]) for call in upstream.calls) == [36, 64]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(status=401, message=f"wrong key {KEY}"), "UPSTREAM_CREDENTIAL_REJECTED"),
        (Fault(status=400, message=f"no {KEY}"), "UPSTREAM_REJECTED"),
        (Fault(status=429), "UPSTREAM_RATE_LIMITED"),
        (Fault(status=500), "UPSTREAM_UNAVAILABLE"),
    ],
)
async def test_failures_have_the_reasons_of_direct_calls_and_tell_no_key(
    installation: Installation, upstream: LlmEmulator, fault: Fault, reason: str
) -> None:
    upstream.on(Reply(fault=fault))
    failure = await refusal(installation.inference().Complete(ask(MODEL)))
    assert failure.reason == reason
    assert KEY not in failure.raw


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "null",
        "<html>",
        '{"choices": "none"}',
        '{"choices": [{"message": 5}]}',
        '{"choices": [{"message": {"content": {"a": 1}}}], "usage": {"prompt_tokens": "many"}}',
        '{"choices": [{"message": {"tool_calls": [{"function": 5}]}}]}',
        'data: {"choices": [{"delta": {"tool_calls": "none"}}]}\n\ndata: [DONE]\n\n',
        "data: {broken\n\n",
        "[" * 30_000,
    ],
)
async def test_what_the_libraries_of_providers_cannot_read_is_never_internal(
    installation: Installation, upstream: LlmEmulator, body: str, stream: bool
) -> None:
    # The outages of other tests are not counted on.
    await installation.inference().Complete(ask(MODEL))
    upstream.on(Reply(raw_body=body))

    async def call() -> None:
        if stream:
            async for _ in installation.inference().StreamComplete(ask_stream(MODEL)):
                pass
        else:
            await installation.inference().Complete(ask(MODEL))

    failure = await refusal(call())
    assert failure.code is not grpc.StatusCode.INTERNAL
    assert failure.reason.startswith("UPSTREAM_")
    assert "Traceback" not in failure.raw
    assert "litellm." not in failure.message


async def test_a_passing_failure_is_tried_again(installation: Installation, upstream: LlmEmulator) -> None:
    upstream.on(Reply(fault=Fault(status=503)), times=1)
    assert (await installation.inference().Complete(ask(MODEL))).text.startswith("Echo")


async def test_what_the_provider_did_not_count_is_an_estimate(
    installation: Installation, upstream: LlmEmulator
) -> None:
    upstream.on(Reply(text="some words", omit_usage=True))
    answer = await installation.inference().Complete(ask(MODEL))
    pieces = [piece async for piece in installation.inference().StreamComplete(ask_stream(MODEL))]
    for usage in (answer.usage, pieces[-2].usage):
        assert usage.estimated
        assert usage.input_tokens > 0
        assert usage.output_tokens > 0
    upstream.clear_rules()
    upstream.on(Reply(text="some words", usage=Usage(prompt_tokens=70, completion_tokens=50)))
    pieces = [piece async for piece in installation.inference().StreamComplete(ask_stream(MODEL))]
    assert (pieces[-2].usage.input_tokens, pieces[-2].usage.output_tokens) == (70, 50)
    assert not pieces[-2].usage.estimated


async def test_a_stream_that_breaks_off_is_no_answer(installation: Installation, upstream: LlmEmulator) -> None:
    await installation.inference().Complete(ask(MODEL))
    event = '{"choices": [{"index": 0, "delta": {"content": "half"}}]}'
    upstream.on(Reply(raw_body=f"data: {event}\n\n"))

    async def read_all() -> None:
        async for _ in installation.inference().StreamComplete(ask_stream(MODEL)):
            pass

    failure = await refusal(read_all())
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_given_up_ends_upstream(installation: Installation, upstream: LlmEmulator, stream: bool) -> None:
    upstream.on(Reply(text="a b c d", hang_after_chunks=2) if stream else Reply(hang=True))
    if stream:
        call = installation.inference().StreamComplete(ask_stream(MODEL))
        await call.read()
    else:
        call = installation.inference().Complete(ask(MODEL))
        await upstream.wait_for_calls(1, hanging=True)
    call.cancel()
    await upstream.wait_for_calls(1, client_disconnected=True)


async def test_the_helper_is_one_process_without_secrets_in_its_environment_and_the_service_imports_nothing_of_it(
    installation: Installation, upstream: LlmEmulator
) -> None:
    await installation.inference().Complete(ask(MODEL))
    (helper,) = helpers()
    environment = environment_of(helper.pid)
    assert KEY not in str(environment)
    assert not [name for name in environment if name.endswith(("_KEY", "_TOKEN")) or name.startswith("COXSWAIN_")]
    assert "litellm" not in sys.modules


async def test_a_helper_that_dies_is_started_again(installation: Installation, upstream: LlmEmulator) -> None:
    await installation.inference().Complete(ask(MODEL))
    (helper,) = helpers()
    upstream.on(Reply(hang=True), times=1)
    call = installation.inference().Complete(ask(MODEL))
    await upstream.wait_for_calls(1, hanging=True)
    helper.kill()
    assert (await call).text.startswith("Echo")
    (again,) = helpers()
    assert again.pid != helper.pid


async def test_a_provider_without_a_key_is_refused_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = [{**SEED[0], "upstream_model": "xai/some-model"}]
    before = len(helpers())
    async with serve_models(tmp_path, monkeypatch, key="", seed=seed, litellm_prestart=False) as other:
        failure = await refusal(other.inference().Complete(ask(MODEL)))
        assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CREDENTIAL_NOT_CONFIGURED")
        assert len(helpers()) == before


async def test_extra_parameters_go_up_and_none_that_litellm_reads_itself(
    installation: Installation, upstream: LlmEmulator
) -> None:
    given = {"top_k": 40, "presence_penalty": 0.5, "chat_template_kwargs": {"enable_thinking": False}}
    await installation.inference().Complete(ask(MODEL, extra_parameters=to_struct(given)))
    body = upstream.calls[0].body
    assert {name: body[name] for name in given} == given
    for name in ("api_base", "custom_llm_provider", "mock_response", "fallbacks", "extra_body", "callbacks"):
        refused = await refusal(installation.inference().Complete(ask(MODEL, extra_parameters=to_struct({name: "x"}))))
        assert refused.fields == [f"completion.extra_parameters.{name}"]
    assert len(upstream.calls) == 1


async def test_an_upstream_that_fails_in_a_row_is_left_alone_and_another_model_answers(
    upstream: LlmEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOGETHER_AI_API_KEY", KEY)
    monkeypatch.setenv("TOGETHER_AI_BASE_URL", f"{upstream.url}/v1")
    away = {
        **SEED[0],
        "name": "together_ai/away",
        "upstream_model": "together_ai/away",
        "fallbacks": {"on_outage": [MODEL]},
    }
    upstream.on(Reply(fault=Fault(status=503)), model="away")
    async with serve_models(
        tmp_path,
        monkeypatch,
        key="",
        seed=[*SEED, away],
        litellm_base_urls={"together_ai": f"{upstream.url}/v1"},
        breaker_outages=4,
        breaker_pause_seconds=600,
        breaker_max_seconds=600,
    ) as installation:
        for sent in (2, 4, 4, 4):
            answer = await installation.inference().Complete(ask("together_ai/away"))
            assert answer.answered_by == MODEL
            assert len(upstream.calls_where(model="away")) == sent
