"""The largest calls hold up no other: none of their steps keeps the event loop for long."""

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from coxswain.models.v1 import inference_pb2 as pb
from services.common.grpc.json_values import to_struct
from tests.integration.models.support import EMBED, SEED, Installation, ask, ask_stream, completion, serve_models, text
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import Reply, ToolCall

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Of the loop's own processor time: how busy the machine is does not count. Each step takes a quarter of that and less.
LONGEST_SECONDS = 0.25
LARGE = "large"
WIDE: dict[str, Any] = {
    "name": LARGE,
    "provider": "openai",
    "upstream_model": "chat",
    "capabilities": ["chat", "tools", "json_schema"],
    "context_window": 10_000_000,
}
WRITE = pb.ToolDefinition(name="write", description="Writes a text.", parameters_schema=to_struct({"type": "object"}))
STATE = json.dumps({"google": {"thought_signature": "s" * 1_000_000}})
PARTS = json.dumps({"a": [[], ""] * 400_000})
DEEP_STATE = json.dumps({"google": ["x"] * 190_000})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Installation]:
    """Models before an emulator with a loop of its own."""
    with pytest.MonkeyPatch.context() as patch, LlmEmulator(dimensions={"embed": 64}) as upstream:
        upstream.on(Reply(vectors=[[1.0] * 64] * 64), route="embeddings")
        upstream.on(Reply(chunks=["word " * 600_000]), contains="a long answer")
        upstream.on(
            Reply(tool_calls=[ToolCall(name="write", arguments={"a": "x" * 3_000_000})]), contains="a long call"
        )
        upstream.on(Reply(tool_calls=[ToolCall(name="write", arguments=PARTS)]), contains="many parts")
        directory = tmp_path_factory.mktemp("large")
        async with serve_models(directory, patch, seed=[*SEED, WIDE], upstream=upstream) as installation:
            yield installation


@pytest.fixture(autouse=True)
def _without_collections() -> Iterator[None]:
    # The objects of the whole test run are looked through otherwise.
    gc.disable()
    yield
    gc.enable()


async def longest_step(call: Any) -> float:
    """Return the most processor time, in seconds, that the loop has spent at once until a call has ended."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        before = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, before = max(longest, now - before), now

    watching = asyncio.create_task(watch())
    await call
    watching.cancel()
    return longest


def turns(count: int) -> list[pb.Message]:
    return [text(f"turn {number}", role="USER" if number % 2 == 0 else "ASSISTANT") for number in range(count)]


def with_state(state: str) -> list[pb.Message]:
    call = pb.ToolCall(id="a", name="write", arguments_json="{}", provider_state=state)
    result = pb.Message(role=pb.MESSAGE_ROLE_TOOL, tool_call_id="a", content=[pb.ContentPart(text="done")])
    return [text("go"), pb.Message(role=pb.MESSAGE_ROLE_ASSISTANT, tool_calls=[call]), result]


async def read(call: Any) -> None:
    async for _ in call:
        pass


async def test_no_step_of_the_largest_calls_takes_long(served: Installation) -> None:
    inference = served.inference()
    texts = [f"text {number} {'word ' * 200}" for number in range(2048)]
    many = turns(9_999)
    longest: dict[str, float] = {}
    calls: dict[str, Callable[[], Any]] = {
        "2048 texts": lambda: inference.Embed(pb.EmbedRequest(model=EMBED, texts=texts)),
        "2048 texts at hand": lambda: inference.Embed(pb.EmbedRequest(model=EMBED, texts=texts)),
        "10,000 messages": lambda: inference.Complete(ask(LARGE, *many)),
        "10,000 messages once": lambda: inference.Complete(
            pb.CompleteRequest(completion=completion(LARGE, *many), request_id="once")
        ),
        "10,000 messages counted": lambda: inference.CountTokens(pb.CountTokensRequest(model=LARGE, messages=many)),
        "a signature of 1 MB": lambda: inference.Complete(ask(LARGE, *with_state(STATE), tools=[WRITE])),
        "a state of many parts": lambda: inference.Complete(ask(LARGE, *with_state(DEEP_STATE), tools=[WRITE])),
        "a text of 3 MB": lambda: inference.Complete(ask(LARGE, text("word " * 600_000))),
        "an answer of 3 MB": lambda: inference.Complete(ask(LARGE, text("a long answer"))),
        "a stream of 3 MB": lambda: read(inference.StreamComplete(ask_stream(LARGE, text("a long answer")))),
        "a tool call of many parts": lambda: inference.Complete(ask(LARGE, text("many parts"), tools=[WRITE])),
        "a tool call of 3 MB": lambda: inference.Complete(ask(LARGE, text("a long call"), tools=[WRITE])),
    }
    for name, call in calls.items():
        longest[name] = await longest_step(call())
    assert max(longest.values()) < LONGEST_SECONDS, longest
