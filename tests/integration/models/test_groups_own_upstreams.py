"""Models whose address a group chose: where they may lead, and which key may go there."""

import ipaddress
from pathlib import Path

import grpc
import pytest
from aiohttp import web

from coxswain.auth.v1 import secret_pb2, secret_service_pb2_grpc
from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1 import model_pb2
from tests.integration.models.support import CHAT, KEY, Installation, ask, refusal, serve_models
from tests.support.harness import ALICE, BOB
from tests.support.llm_emulator import LlmEmulator

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]


async def add(installation: Installation, url: str, name: str = "sales/own", bearer: str = ALICE) -> None:
    model = model_pb2.Model(
        name=name,
        provider=model_pb2.PROVIDER_OPENAI,
        upstream_model="chat",
        base_url=url,
        capabilities=model_pb2.Capabilities(chat=True),
    )
    await installation.models(bearer).CreateModel(model_pb2.CreateModelRequest(model=model))


async def store_key(installation: Installation, key: str, origin: str, bearer: str = ALICE) -> None:
    stub = secret_service_pb2_grpc.SecretServiceStub(installation.harness.channel(bearer))
    request = secret_pb2.PutSecretRequest(name="llm/openai", value=key, allowed_origins=[origin])
    await stub.PutSecret(request)


async def test_a_name_that_leads_into_the_house_is_refused_when_it_is_called(models: Installation) -> None:
    await add(models, f"https://localhost:{models.llm.port}/v1")
    await store_key(models, "sk-group-key", f"https://localhost:{models.llm.port}")
    failure = await refusal(models.inference().Complete(ask("sales/own")))
    assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "DESTINATION_NOT_ALLOWED")
    assert '"sales/own" cannot be called: https://localhost' in failure.raw
    assert models.llm.calls == []


async def test_the_operators_key_does_not_go_where_a_group_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        LlmEmulator() as foreign,
        serve_models(tmp_path, monkeypatch, egress_allowed_networks=LOOPBACK) as installation,
    ):
        await add(installation, f"{foreign.url}/v1")
        failure = await refusal(installation.inference().Complete(ask("sales/own")))
        assert failure.code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION)
        assert KEY not in failure.raw
        assert foreign.calls == []


async def test_a_groups_key_goes_to_its_origin_for_that_group_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        LlmEmulator() as own,
        serve_models(tmp_path, monkeypatch, egress_allowed_networks=LOOPBACK) as installation,
    ):
        await add(installation, f"{own.url}/v1")
        await store_key(installation, "sk-of-sales-only", own.url)
        await installation.inference().Complete(ask("sales/own"))
        await installation.inference().Complete(ask("sales/own"))
        assert [call.bearer for call in own.calls] == ["sk-of-sales-only"] * 2
        # Another group with a model of the same address has no use of it.
        await add(installation, f"{own.url}/v1", name="legal/own", bearer=BOB)
        await refusal(installation.inference(BOB).Complete(ask("legal/own")))
        assert len(own.calls) == 2
        # Nor does a shared model of the other group's present it.
        await installation.inference(BOB).Complete(ask(CHAT))
        assert installation.llm.calls[-1].bearer == KEY


async def test_a_redirect_is_not_followed_and_the_key_stays_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def elsewhere(_: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect(f"{installation.llm.url}/v1/chat/completions")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", elsewhere)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with serve_models(
            tmp_path, monkeypatch, egress_allowed_networks=LOOPBACK, keyless_origins=[url]
        ) as installation:
            await add(installation, f"{url}/v1")
            await store_key(installation, "sk-of-sales-only", url)
            failure = await refusal(installation.inference().Complete(ask("sales/own")))
            assert (failure.reason, failure.metadata["http_status"]) == ("UPSTREAM_REJECTED", "307")
            assert installation.llm.calls == []
    finally:
        await runner.cleanup()


async def test_a_replaced_key_is_used_once_the_upstream_refuses_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_models(tmp_path, monkeypatch) as installation:
        await store_key(installation, "sk-first-key", installation.llm.url)
        installation.llm.accepted_keys = {"sk-first-key"}
        await installation.inference().Complete(ask(CHAT))
        installation.llm.accepted_keys = {"sk-second-key"}
        failure = await refusal(installation.inference().Complete(ask(CHAT)))
        assert failure.reason == "UPSTREAM_CREDENTIAL_REJECTED"
        installation.llm.accepted_keys = {"sk-first-key"}
        await installation.inference().Complete(ask(CHAT))
        await store_key(installation, "sk-second-key", installation.llm.url)
        installation.llm.accepted_keys = {"sk-second-key"}
        await installation.inference().Complete(ask(CHAT))
        assert installation.llm.calls[-1].bearer == "sk-second-key"


async def test_an_answer_without_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve_models(tmp_path, monkeypatch, max_response_bytes=65536) as installation:
        from tests.support.llm_script import Reply

        installation.llm.on(Reply(text="word " * 50_000))
        failure = await refusal(installation.inference().Complete(ask(CHAT)))
        assert failure.reason == "UPSTREAM_BAD_RESPONSE"
        stream = installation.inference().StreamComplete(pb.StreamCompleteRequest(completion=ask(CHAT).completion))

        async def read_all() -> None:
            async for _ in stream:
                pass

        assert (await refusal(read_all())).reason == "UPSTREAM_BAD_RESPONSE"
