"""Answers that are lost on the way, whatever reaches the provider: sent again only where nothing was made, and counted.

Each case is the same for a provider that is called directly and for those that litellm calls.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import pytest_asyncio

from coxswain.models.v1 import usage_pb2
from tests.integration.models.support import Installation, Refusal, ask, ask_stream, refusal, serve_models, text
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import Reply

# Each start of litellm's helper costs seconds of CPU: one for the whole file.
pytestmark = pytest.mark.asyncio(loop_scope="module")
ATTEMPTS = 2
SECONDS = 3
"""How long an upstream may send nothing."""
WIRES = {"together_ai": "openai", "anthropic": "anthropic", "gemini": "gemini", "ollama_chat": "ollama"}
PATHS = {"together_ai": "/v1", "gemini": "/v1beta"}
ROUTES = {
    "direct": "gpt-4.1",
    "together_ai": "together_ai/m",
    "anthropic": "anthropic/claude-sonnet-4-5",
    "gemini": "gemini/gemini-2.5-flash",
    "ollama_chat": "ollama_chat/m",
}
_cases = itertools.count()


@dataclass
class Served:
    installation: Installation
    upstream: LlmEmulator


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        async with LlmEmulator() as upstream:
            addresses = {name: upstream.url_of(wire) + PATHS.get(name, "") for name, wire in WIRES.items()}
            for name in ("OPENAI", *(name.upper() for name in WIRES)):
                patch.setenv(f"{name}_API_KEY", "a-key")
                patch.setenv(f"{name}_BASE_URL", upstream.url)
            seed: list[dict[str, Any]] = [
                {
                    "name": route,
                    "provider": "openai" if route == "direct" else "litellm",
                    "upstream_model": model,
                    "capabilities": ["chat"],
                }
                for route, model in ROUTES.items()
            ]
            async with serve_models(
                tmp_path_factory.mktemp("lost"),
                patch,
                key="",
                seed=seed,
                upstream=upstream,
                litellm_base_urls=addresses,
                max_attempts=ATTEMPTS,
                first_byte_seconds=SECONDS,
                idle_seconds=SECONDS,
                breaker_outages=0,
            ) as installation:
                # The first call waits for the helper's start.
                await installation.inference().Complete(ask("together_ai"))
                yield Served(installation, upstream)


@dataclass
class Lost:
    """What came of a call, and of what its upstream did for it."""

    failure: Refusal
    requests: int
    recorded: int


async def lose(served: Served, route: str, reply: Reply, *, stream: bool) -> Lost:
    word = f"case-{next(_cases)}-"
    served.upstream.on(reply, contains=word)
    say, fields = text(word), {"labels": {"case": word}}

    async def read() -> None:
        async for _ in served.installation.inference().StreamComplete(ask_stream(route, say, **fields)):
            pass

    call = read() if stream else served.installation.inference().Complete(ask(route, say, **fields))
    failure = await refusal(call)
    query = usage_pb2.QueryUsageRequest(labels=fields["labels"])
    rows = (await served.installation.usage().QueryUsage(query)).rows
    requests = [call for call in served.upstream.calls if word in str(call.body)]
    return Lost(failure, len(requests), sum(row.calls for row in rows))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("stream", "reply", "requests", "recorded", "words"),
    [
        (False, Reply(drop=True), ATTEMPTS, 0, "did not answer"),
        (False, Reply(cut_headers=True), ATTEMPTS, 0, "did not answer"),
        (False, Reply(cut_after_bytes=0), 1, 1, "broke off its answer"),
        (False, Reply(cut_after_bytes=30), 1, 1, "broke off its answer"),
        (False, Reply(cut_after_bytes=30, gzip=True), 1, 1, "broke off its answer"),
        (True, Reply(drop=True), ATTEMPTS, 0, "did not answer"),
        (True, Reply(cut_headers=True), ATTEMPTS, 0, "did not answer"),
        # Nothing is passed on yet, and nothing may have been made.
        (True, Reply(cut_after_bytes=0), ATTEMPTS, ATTEMPTS, "did not answer"),
        (True, Reply(cut_after_bytes=30), 1, 1, "answer was complete"),
        (True, Reply(chunks=["one ", "two"], drop_after_chunks=1), 1, 1, "answer was complete"),
    ],
    ids=[
        "whole-dropped",
        "whole-headers",
        "whole-body",
        "whole-within",
        "whole-packed",
        "stream-dropped",
        "stream-headers",
        "stream-body",
        "stream-within",
        "stream-text",
    ],
)
async def test_what_was_cut_off_is_not_asked_for_again_once_it_may_have_been_made(
    served: Served, route: str, stream: bool, reply: Reply, requests: int, recorded: int, words: str
) -> None:
    lost = await lose(served, route, reply, stream=stream)
    assert (lost.requests, lost.recorded) == (requests, recorded), lost.failure.message
    assert (lost.failure.code, lost.failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")
    assert words in lost.failure.message


SILENCES = [
    (False, Reply(hang=True), ATTEMPTS, "for too long"),
    (False, Reply(hang_after_bytes=30), 1, f"for {SECONDS} s"),
    (True, Reply(hang=True), ATTEMPTS, "for too long"),
    (True, Reply(hang_after_headers=True), ATTEMPTS, "for too long"),
    (True, Reply(chunks=["one ", "two"], hang_after_chunks=1), 1, f"for {SECONDS} s"),
]


async def test_a_silent_upstream_is_given_up_and_counted(served: Served) -> None:
    # All of them at once: they wait.
    cases = [(route, *case) for route in ROUTES for case in SILENCES]
    found = await asyncio.gather(*(lose(served, route, reply, stream=stream) for route, stream, reply, _, _ in cases))
    for case, lost in zip(cases, found, strict=True):
        (*_, requests, words) = case
        assert (lost.requests, lost.recorded) == (requests, requests), (case, lost.failure.message)
        assert (lost.failure.code, lost.failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"), case
        assert f"sent nothing {words}" in lost.failure.message, case
