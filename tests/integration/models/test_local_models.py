"""Models of a server on this machine: one setting, and no key."""

import socket
from pathlib import Path
from typing import Any

import pytest

from coxswain.models.v1 import inference_pb2
from coxswain.models.v1 import model_pb2 as pb
from services.models.seed import read_seed
from services.models.settings import ModelsSettings
from tests.integration.models.support import KEY, ask, ask_stream, refusal, serve_models
from tests.support.harness import BOB
from tests.support.llm_emulator import LlmEmulator

PACKAGED = ModelsSettings().seed_file
LOCAL = [
    ("OLLAMA_BASE_URL", "ollama/llama3.2", "ollama/nomic-embed-text", pb.PROVIDER_OLLAMA),
    ("VLLM_BASE_URL", "vllm/Qwen/Qwen3-8B", "", pb.PROVIDER_VLLM),
]


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OLLAMA_API_KEY", "VLLM_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


async def test_of_a_host_that_does_not_resolve_the_setting_is_named_and_not_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve, asked = socket.getaddrinfo, list[Any]()

    def unknown(host: Any, *arguments: Any, **options: Any) -> Any:
        # What resolves names on this machine may know every name, or answer none.
        if "ollama.invalid" not in str(host):
            return resolve(host, *arguments, **options)
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("OLLAMA_BASE_URL", "http://ollama.invalid:11434/v1")
    async with serve_models(tmp_path, monkeypatch, key="", seed_file=PACKAGED) as installation:
        failure = await refusal(installation.inference().Complete(ask("ollama/llama3.2")))
    assert failure.reason == "UPSTREAM_UNAVAILABLE"
    assert failure.message == (
        'the upstream of "ollama/llama3.2" cannot be reached: the host of OLLAMA_BASE_URL does not resolve; '
        "try again later"
    )
    assert asked


@pytest.mark.parametrize(("setting", "chat", "embed", "provider"), LOCAL)
@pytest.mark.parametrize("path", ["/v1", ""])
async def test_one_setting_is_enough_to_call_a_packaged_model(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    chat: str,
    embed: str,
    provider: pb.Provider.ValueType,
    path: str,
) -> None:
    async with LlmEmulator(dimensions={"nomic-embed-text": 768}) as local:
        monkeypatch.setenv(setting, f"{local.url}{path}")
        async with serve_models(tmp_path, monkeypatch, key="", seed_file=PACKAGED) as installation:
            answer = await installation.inference().Complete(ask(chat))
            assert answer.text
            assert answer.usage.cost == 0
            parts = [part async for part in installation.inference().StreamComplete(ask_stream(chat))]
            assert parts[-1].HasField("finish")
            calls = 2
            if embed:
                request = inference_pb2.EmbedRequest(model=embed, texts=["hello"])
                assert (await installation.inference().Embed(request)).dimension == 768
                calls += 1
            # A group's own model without an address is the operator's server as well.
            own = pb.Model(name="mine", upstream_model="x", provider=provider, capabilities=pb.Capabilities(chat=True))
            await installation.models(BOB).CreateModel(pb.CreateModelRequest(model=own))
            await installation.inference(BOB).Complete(ask("mine"))
        assert [call.bearer for call in local.calls] == [None] * (calls + 1)
        assert local.calls[0].body["model"] == chat.partition("/")[2]
        assert "max_tokens" not in local.calls[0].body


async def test_a_key_of_the_operators_goes_to_its_own_server_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with LlmEmulator() as ollama, LlmEmulator() as vllm:
        monkeypatch.setenv("OLLAMA_BASE_URL", f"{ollama.url}/v1")
        monkeypatch.setenv("OLLAMA_API_KEY", KEY)
        monkeypatch.setenv("VLLM_BASE_URL", f"{vllm.url}/v1")
        async with serve_models(tmp_path, monkeypatch, key="", seed_file=PACKAGED) as installation:
            await installation.inference().Complete(ask("ollama/qwen3:8b"))
            await installation.inference().Complete(ask("vllm/openai/gpt-oss-20b"))
        assert [call.bearer for call in ollama.calls] == [KEY]
        assert [call.bearer for call in vllm.calls] == [None]


def test_the_packaged_models_of_a_local_server_cost_nothing() -> None:
    local: list[Any] = [spec for spec in read_seed(PACKAGED) if spec.provider.value in ("ollama", "vllm")]
    assert local
    assert all(spec.prices.known and not spec.prices.input and not spec.prices.output for spec in local)
