"""CountTokens by the provider's own counter: exact when it answers, an estimate and no error when it does not."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from coxswain.auth.v1 import secret_pb2, secret_service_pb2_grpc
from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1 import usage_pb2
from tests.integration.models.support import Installation, ask, in_time, refusal, serve_models, text
from tests.support.harness import ALICE, BOB
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import Fault, Reply
from tests.support.media_samples import PNG

CLAUDE = "anthropic/claude"
GEMINI = "gemini/pro"
UNPRICED = "anthropic/unpriced"
SEED = [
    {"name": CLAUDE, "provider": "litellm", "upstream_model": "anthropic/claude-sonnet-4-5", "capabilities": ["chat"]},
    {"name": UNPRICED, "provider": "litellm", "upstream_model": "anthropic/own-tuned", "capabilities": ["chat"]},
    {"name": GEMINI, "provider": "litellm", "upstream_model": "gemini/../odd?name", "capabilities": ["chat"]},
]
SECRET = "sk-ant-marked-81c7"
UNSENDABLE = "sk-marked\x0781c7"


@pytest.fixture
async def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Installation]:
    async with (
        LlmEmulator() as llm,
        serve_models(
            tmp_path,
            monkeypatch,
            seed=SEED,
            key="",
            upstream=llm,
            litellm_base_urls={"anthropic": llm.url_of("anthropic"), "gemini": llm.url_of("gemini") + "/v1beta"},
            litellm_prestart=False,
        ) as installation,
    ):
        yield installation


async def count(
    models: Installation, *messages: pb.Message, bearer: str = ALICE, model: str = CLAUDE, **how: Any
) -> Any:
    request = pb.CountTokensRequest(model=model, messages=messages or [text("One, two, three")])
    return await models.inference(bearer).CountTokens(request, **how)


async def test_what_limits_refuse_asks_no_counter(counted: Installation) -> None:
    secrets: Any = secret_service_pb2_grpc.SecretServiceStub(counted.harness.channel(ALICE))
    await secrets.PutSecret(
        secret_pb2.PutSecretRequest(name="llm/anthropic", value=SECRET, allowed_origins=[counted.llm.url])
    )
    assert (await count(counted)).exact
    # The calls of a minute are not counted by it.
    usage = counted.usage()
    await usage.SetBudget(usage_pb2.SetBudgetRequest(budget=usage_pb2.Budget(calls_per_minute=1)))
    assert [(await count(counted)).exact for _ in "ab"] == [True, True]
    asked = len(counted.llm.calls)
    limits = usage_pb2.Budget(monthly_cost_limit=1)
    await usage.SetBudget(usage_pb2.SetBudgetRequest(budget=limits, scope=usage_pb2.BudgetScope(model=UNPRICED)))
    assert (await count(counted)).exact
    estimate = await count(counted, model=UNPRICED)
    assert (estimate.exact, estimate.tokens > 0) == (False, True)
    assert len(counted.llm.calls) == asked + 1


async def test_a_key_that_no_header_can_hold_is_refused_as_a_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", UNSENDABLE)
    refused = (grpc.StatusCode.FAILED_PRECONDITION, "UPSTREAM_CREDENTIAL_REJECTED")
    async with LlmEmulator() as llm:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", llm.url)
        async with serve_models(
            tmp_path,
            monkeypatch,
            seed=[*SEED, {"name": "openai/m", "provider": "openai", "capabilities": ["chat"]}],
            key=UNSENDABLE,
            upstream=llm,
            litellm_base_urls={"anthropic": llm.url_of("anthropic")},
            litellm_prestart=False,
            breaker_outages=1,
        ) as models:
            assert not (await count(models)).exact
            # A circuit that opened after the first of them would say something else.
            for name in ("openai/m", CLAUDE) * 2:
                failure = await refusal(models.inference().Complete(ask(name)))
                assert (failure.code, failure.reason) == refused
                assert "printable" in failure.message
                assert "81c7" not in failure.message
        assert llm.calls == []


async def test_only_a_group_with_a_key_asks_the_counter(
    counted: Installation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets: Any = secret_service_pb2_grpc.SecretServiceStub(counted.harness.channel(ALICE))
    for provider in ("anthropic", "gemini"):
        await secrets.PutSecret(
            secret_pb2.PutSecretRequest(name=f"llm/{provider}", value=SECRET, allowed_origins=[counted.llm.url])
        )
    assert not (await count(counted, bearer=BOB)).exact
    assert counted.llm.calls == []
    assert (await count(counted)).exact
    [call] = counted.llm.calls
    assert (call.route, call.wire, call.key) == ("count", "anthropic", SECRET)
    # What is no text, and what no counter takes, is estimated without asking.
    image = pb.Message(role=pb.MESSAGE_ROLE_USER, content=[pb.ContentPart(image=pb.Image(data=PNG))])
    called = pb.Message(role=pb.MESSAGE_ROLE_ASSISTANT, tool_calls=[pb.ToolCall(id="a", name="f", arguments_json="{}")])
    assert not (await count(counted, image)).exact
    assert not (await count(counted, text("Look"), called)).exact
    assert len(counted.llm.calls) == 1
    # A model's name is a part of the address, and no more than that.
    await count(counted, model=GEMINI)
    assert counted.llm.calls[-1].model == "../odd?name"
    for reply in (
        Reply(fault=Fault(status=401, message=f"invalid x-api-key {SECRET}")),
        Reply(fault=Fault(status=529, message="Overloaded")),
        Reply(drop=True),
        *(
            Reply(raw_body=body)
            for body in (
                "[]",
                "{}",
                "no JSON",
                '{"input_tokens": true}',
                '{"input_tokens": -1}',
                '{"input_tokens": 1e400}',
            )
        ),
        Reply(raw_body='{"input_tokens": 100000000000000000000}'),
        Reply(raw_body='{"input_tokens": 5' + " " * 100_000 + "}"),
    ):
        counted.llm.clear_rules()
        counted.llm.clear_log()
        counted.llm.on(reply, route="count")
        estimate = await count(counted)
        assert (estimate.exact, 2 <= estimate.tokens <= 12) == (False, True), reply
        # It is asked once, or once more with its key asked for anew.
        assert 1 <= len(counted.llm.calls) <= 2
    counted.llm.clear_rules()
    counted.llm.on(Reply(hang=True), route="count")
    # An estimate comes while the caller still waits, whose time alone counts here.
    monkeypatch.setattr("services.models.providers.provider_counters._SECONDS", 600.0)
    assert not (await in_time(lambda seconds: count(counted, timeout=seconds), 4)).exact
    counted.llm.release()
    assert SECRET not in capsys.readouterr().out
