"""Auth and models on loopback before an LLM emulator, and short ways to call them."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import yaml
from google.rpc import error_details_pb2, status_pb2
from prometheus_client import REGISTRY

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1 import inference_service_pb2_grpc, model_service_pb2_grpc, usage_service_pb2_grpc
from services.models.settings import ModelsSettings
from tests.support.exhausted import fault_of_exhausted
from tests.support.harness import ALICE, Harness, serve_services
from tests.support.llm_emulator import LlmEmulator
from tests.support.waiting import longer, until

CHAT = "openai/chat"
REASONER = "databricks/gpt-oss"
EMBED = "openai/embed"
OFFLINE = "offline/extract"
KEY = "sk-marked-4f1d9c7b2e8a"

SEED: list[dict[str, Any]] = [
    {"name": OFFLINE, "provider": "offline", "capabilities": ["chat"], "context_window": 100000},
    {"name": "offline/embed", "provider": "offline", "capabilities": ["embeddings"], "embedding_dimension": 256},
    {
        "name": CHAT,
        "provider": "openai",
        "capabilities": ["chat", "tools", "json_schema"],
        "context_window": 8000,
        "input_cost_per_million_tokens": 2.0,
        "output_cost_per_million_tokens": 8.0,
    },
    {
        "name": REASONER,
        "provider": "databricks",
        "capabilities": ["chat", "tools", "json_schema", "reasoning"],
        "temperature": 0.25,
    },
    {"name": EMBED, "provider": "openai", "capabilities": ["embeddings"], "embedding_dimension": 64},
]


@dataclass
class Installation:
    """Models being served."""

    harness: Harness
    llm: LlmEmulator

    def models(self, bearer: str = ALICE) -> Any:
        """Return the untyped stub of ModelService."""
        return model_service_pb2_grpc.ModelServiceStub(self.harness.channel(bearer))

    def inference(self, bearer: str = ALICE) -> Any:
        """Return the untyped stub of InferenceService."""
        return inference_service_pb2_grpc.InferenceServiceStub(self.harness.channel(bearer))

    def usage(self, bearer: str = ALICE) -> Any:
        """Return the untyped stub of UsageService."""
        return usage_service_pb2_grpc.UsageServiceStub(self.harness.channel(bearer))


@contextlib.asynccontextmanager
async def serve_models(
    data_dir: Path,
    monkeypatch: Any,
    *,
    database_url: str = "",
    seed: list[dict[str, Any]] | None = None,
    key: str = KEY,
    common: Mapping[str, Any] | None = None,
    upstream: LlmEmulator | None = None,
    **settings: Any,
) -> AsyncIterator[Installation]:
    """Serve auth and models; the environment holds one key for the emulator, in both of its dialects.

    `upstream` is an emulator that runs already, such as one that another replica calls too.
    """
    seed_file = data_dir / "seed.yaml"
    seed_file.write_text(yaml.safe_dump({"models": SEED if seed is None else seed}))
    async with contextlib.nullcontext(upstream) if upstream else LlmEmulator(dimensions={"embed": 64}) as llm:
        if key:
            monkeypatch.setenv("OPENAI_API_KEY", key)
            monkeypatch.setenv("OPENAI_BASE_URL", f"{llm.url}/v1")
            monkeypatch.setenv("DATABRICKS_HOST", llm.url)
            monkeypatch.setenv("DATABRICKS_TOKEN", key)
        values = {
            "seed_file": seed_file,
            "openai_base_url": f"{llm.url}/v1",
            "databricks_host": llm.url,
            "retry_base_seconds": 0.01,
            **settings,
        }
        async with serve_services(
            data_dir,
            "models",
            database_url=database_url,
            settings={"models": ModelsSettings(**values)},
            **(common or {}),
        ) as harness:
            yield Installation(harness, llm)


@dataclass
class Refusal:
    """What a failed call tells."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    fields: list[str]
    retry_after: float | None
    raw: str
    """Everything that came, for those who look for secrets in it."""


async def refusal(call: Awaitable[Any]) -> Refusal:
    """Return how a call failed; it is an error when it did not."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return read_refusal(error)
    raise AssertionError("the call succeeded")


async def outlasted(models: Installation, call: Callable[[float], Awaitable[Any]], first: float) -> None:
    """Make a call with so many seconds, which pass while the upstream works on it: it has logged one call.

    On a busy machine they may pass before: then it is made again, with more.
    """
    for seconds in longer(first):
        assert (await refusal(call(seconds))).code is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(_idle, "the service gives it up")
        # What the service had sent by then, the upstream has read before it answers this.
        async with aiohttp.ClientSession() as session, session.get(f"{models.llm.url}/_log") as response:
            await response.read()
        if models.llm.calls:
            return


async def in_time(call: Callable[[float], Awaitable[Any]], first: float) -> Any:
    """Return the answer of a call that has so many seconds, or more when they are too few on a busy machine."""
    times = longer(first)
    while True:
        try:
            return await call(next(times))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise


def _idle() -> bool:
    labels = [{"listener": "public", "kind": kind} for kind in ("calls", "streams")]
    return not any(REGISTRY.get_sample_value("coxswain_rpc_open", one) for one in labels)


def read_refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Return what an error tells."""
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode())
    assert not fault_of_exhausted(status)
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in status.details:
        for message in (info, bad, retry):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    return Refusal(
        code=error.code(),
        message=error.details() or "",
        reason=info.reason,
        metadata=dict(info.metadata),
        fields=[violation.field for violation in bad.field_violations],
        retry_after=retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None,
        raw=f"{error!r} {status}",
    )


def text(*parts: str, material: str = "", role: str = "USER") -> pb.Message:
    """Return a message of text parts, and of material after the first."""
    content = [pb.ContentPart(text=part) for part in parts]
    if material:
        content.insert(1, pb.ContentPart(material=material))
    return pb.Message(role=pb.MessageRole.Value(f"MESSAGE_ROLE_{role}"), content=content)


def completion(model: str, *messages: pb.Message, **fields: Any) -> pb.Completion:
    """Return what to complete; by default a greeting."""
    return pb.Completion(model=model, messages=messages or [text("Hello there")], **fields)


def ask(model: str, *messages: pb.Message, **fields: Any) -> pb.CompleteRequest:
    """Return a request for a whole answer."""
    return pb.CompleteRequest(completion=completion(model, *messages, **fields))


def ask_stream(model: str, *messages: pb.Message, **fields: Any) -> pb.StreamCompleteRequest:
    """Return a request for a streamed answer."""
    return pb.StreamCompleteRequest(completion=completion(model, *messages, **fields))
