"""What is the same for a provider that is called directly and for those that litellm calls.

Answers that are lost on the way are asked for again only where no answer began. They are counted once their request was
sent, as nobody knows what their upstream did: also where it closed a connection that had been kept open. Odd answers
and errors keep their meaning.
"""

import asyncio
import gzip
import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import pytest_asyncio

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1 import usage_pb2
from tests.integration.models.odd_answers import LOST_IN_LITELLM, MEANINGS, ODD_STREAMS, ODD_WHOLES, whole
from tests.integration.models.support import (
    Installation,
    Refusal,
    ask,
    ask_stream,
    read_refusal,
    refusal,
    serve_models,
    text,
)
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import Reply
from tests.support.raw_upstream import Answer, RawUpstream, answer

# Each start of litellm's helper costs seconds of CPU: one for the whole file.
# A helper starts at low priority: on a busy machine the first call waits for minutes.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]
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
DIRECT = {"direct": "openai", "raw": "vllm"}
_cases = itertools.count()


# The same, at an upstream whose answers are bytes.
RAW_ROUTES = {"raw": "m", "deepinfra": "deepinfra/m"}


@dataclass
class Served:
    installation: Installation
    upstream: LlmEmulator
    raw: RawUpstream


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        async with LlmEmulator() as upstream, RawUpstream() as raw:
            addresses = {name: upstream.url_of(wire) + PATHS.get(name, "") for name, wire in WIRES.items()}
            addresses["deepinfra"] = f"{raw.url}/v1"
            patch.setenv("DEEPINFRA_API_KEY", "a-key")
            patch.setenv("DEEPINFRA_BASE_URL", raw.url)
            for name in ("OPENAI", *(name.upper() for name in WIRES)):
                patch.setenv(f"{name}_API_KEY", "a-key")
                patch.setenv(f"{name}_BASE_URL", upstream.url)
            seed: list[dict[str, Any]] = [
                {
                    "name": route,
                    "provider": DIRECT.get(route, "litellm"),
                    "upstream_model": model,
                    "capabilities": ["chat", "tools"],
                }
                for route, model in (ROUTES | RAW_ROUTES).items()
            ]
            async with serve_models(
                tmp_path_factory.mktemp("lost"),
                patch,
                key="",
                seed=seed,
                upstream=upstream,
                litellm_base_urls=addresses,
                vllm_base_url=f"{raw.url}/v1",
                max_attempts=ATTEMPTS,
                first_byte_seconds=SECONDS,
                idle_seconds=SECONDS,
                breaker_outages=0,
            ) as installation:
                # The first call waits for the helper's start.
                await installation.inference().Complete(ask("together_ai"))
                yield Served(installation, upstream, raw)


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
        (False, Reply(drop=True), ATTEMPTS, ATTEMPTS, "did not answer"),
        (False, Reply(cut_headers=True), ATTEMPTS, ATTEMPTS, "did not answer"),
        (False, Reply(cut_after_bytes=0), 1, 1, "broke off its answer"),
        (False, Reply(cut_after_bytes=30), 1, 1, "broke off its answer"),
        (False, Reply(cut_after_bytes=30, gzip=True), 1, 1, "broke off its answer"),
        (True, Reply(drop=True), ATTEMPTS, ATTEMPTS, "did not answer"),
        (True, Reply(cut_headers=True), ATTEMPTS, ATTEMPTS, "did not answer"),
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


@dataclass
class Outcome:
    """What a client got."""

    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    ids: int = 0
    """How many different ids the calls have."""
    finish: str = ""
    counted: tuple[int, int] | None = None
    failure: str = ""
    requests: int = 0


async def outcome(served: Served, route: str, body: str, *, stream: bool) -> Outcome:
    word = f"case-{next(_cases)}-"
    served.upstream.on(
        Reply(raw_body=body, raw_label="text/event-stream" if stream else "application/json"), contains=word
    )
    inference = served.installation.inference()
    calls: dict[int, list[str]] = {}
    found = Outcome()
    usage = pb.Usage()
    try:
        if stream:
            async for piece in inference.StreamComplete(ask_stream(route, text(word))):
                found.text += piece.text
                usage = piece.usage if piece.HasField("usage") else usage
                if piece.HasField("tool_call"):
                    known = calls.setdefault(piece.tool_call.index, ["", "", ""])
                    for place, more in enumerate(
                        (piece.tool_call.id, piece.tool_call.name, piece.tool_call.arguments_json)
                    ):
                        known[place] += more
            found.finish = pb.FinishReason.Name(piece.finish.reason)
        else:
            answer = await inference.Complete(ask(route, text(word)))
            found.text, usage = answer.text, answer.usage
            calls = {number: [each.id, each.name, each.arguments_json] for number, each in enumerate(answer.tool_calls)}
            found.finish = pb.FinishReason.Name(answer.finish_reason)
        found.counted = None if usage.estimated else (usage.input_tokens, usage.output_tokens)
    except grpc.aio.AioRpcError as error:
        failure = read_refusal(error)
        found.failure = f"{failure.code.name} {failure.reason}"
    found.calls = tuple((each[1], each[2]) for _, each in sorted(calls.items()))
    found.ids = len({each[0] for each in calls.values() if each[0]})
    found.requests = len([sent for sent in served.upstream.calls if word in str(sent.body)])
    return found


_lost = pytest.mark.xfail(strict=True, reason="litellm loses it")


@pytest.mark.parametrize(
    ("stream", "name"),
    [
        pytest.param(stream, name, marks=[_lost] if (stream, name) in LOST_IN_LITELLM else [])
        for stream, bodies in ((True, ODD_STREAMS), (False, ODD_WHOLES))
        for name in bodies
    ],
)
async def test_what_is_odd_is_read_alike(served: Served, stream: bool, name: str) -> None:
    body = (ODD_STREAMS if stream else ODD_WHOLES)[name]
    direct, through = [await outcome(served, route, body, stream=stream) for route in ("direct", "together_ai")]
    assert through == direct
    meaning = MEANINGS.get(name, {})
    assert {field: getattr(direct, field) for field in meaning} == meaning


_COUNTS = {"prompt_tokens": 14, "completion_tokens": 2, "total_tokens": 16}
HELLO = whole({"content": "hello"}).encode()
_EMOJI = whole({"content": "h\u00e9\U0001f600"}, usage=_COUNTS, escaped=False).encode()
BOMB = gzip.compress(gzip.compress(b"x" * 20_000_000))
_SLOW = json.dumps({"error": {"message": "slow down"}}).encode()
_WORDS = json.dumps({"error": {"message": "This model's maximum context length is 8192 tokens"}}).encode()
_RATE = "RESOURCE_EXHAUSTED UPSTREAM_RATE_LIMITED"
_KEY = "FAILED_PRECONDITION UPSTREAM_CREDENTIAL_REJECTED"
BYTES: dict[str, tuple[Answer, str, float | None]] = {
    "characters in pieces": (
        [
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
            *(b"1\r\n%c\r\n" % byte for byte in _EMOJI),
            b"0\r\n\r\n",
        ],
        "h\u00e9\U0001f600",
        None,
    ),
    "pause in seconds with their name": (answer(429, _SLOW, "Retry-After: 90s"), _RATE, 90),
    "pause twice": (answer(429, _SLOW, "Retry-After: 90", "Retry-After: 90"), _RATE, 90),
    "pause without end": (answer(429, _SLOW, "Retry-After: " + "9" * 400), _RATE, 366 * 86400),
    "pause in words": (
        answer(429, json.dumps({"error": {"message": "Rate limit reached. Please try again in 1m30s."}}).encode()),
        _RATE,
        90,
    ),
    "packed twice": (answer(429, BOMB, "Content-Encoding: gzip", "Retry-After: 90"), _RATE, 90),
    "damaged": (answer(401, b"\x1f\x8b\x08 no", "Content-Encoding: gzip"), _KEY, None),
    "cut error": (answer(401, _SLOW, sent=20), _KEY, None),
    "cut words": (answer(400, _WORDS, sent=30), "INVALID_ARGUMENT UPSTREAM_REJECTED", None),
    "page": (answer(524, b"<html>A timeout occurred</html>"), "UNAVAILABLE UPSTREAM_UNAVAILABLE", 1),
    "nothing": ([b"HTTP/1.1 204 No Content\r\n\r\n"], "UNAVAILABLE UPSTREAM_BAD_RESPONSE", None),
    "binary": (answer(200, b"\0\1" * 100), "UNAVAILABLE UPSTREAM_BAD_RESPONSE", None),
}
# As streams: litellm reads no whole answer as one, and makes an empty one of what is none.
_NO_STREAM_OF_LITELLMS = {"characters in pieces", "nothing", "binary"}
# What a key was refused for, and what an outage stopped, is asked for again.
_TWICE = {"damaged", "cut error", "page"}


async def ask_raw(served: Served, route: str, reply: Answer, *, stream: bool) -> tuple[str, Any, int]:
    """Return the text or the failure of a call, the pause it asks for, and how many requests there were."""
    word = f"case-{next(_cases)}-"
    served.raw.answers[word] = reply
    inference = served.installation.inference()
    found: tuple[str, float | None] = ("", None)
    try:
        if stream:
            parts = [part.text async for part in inference.StreamComplete(ask_stream(route, text(word)))]
            found = "".join(parts), None
        else:
            found = (await inference.Complete(ask(route, text(word)))).text, None
    except grpc.aio.AioRpcError as error:
        failure = read_refusal(error)
        found = f"{failure.code.name} {failure.reason}", failure.retry_after
    return *found, served.raw.requests[word]


@pytest.mark.parametrize("name", BYTES)
async def test_bytes_of_every_kind_have_their_meaning(served: Served, name: str) -> None:
    reply, meaning, pause = BYTES[name]
    ways = [(route, stream) for route in RAW_ROUTES for stream in (False, True)]
    if name in _NO_STREAM_OF_LITELLMS:
        ways.remove(("deepinfra", True))
    for route, stream in ways:
        found, asked, requests = await ask_raw(served, route, reply, stream=stream)
        assert (found, asked) == (meaning, pause), (route, stream)
        assert requests <= 1 + (name in _TWICE), (route, stream)


async def test_an_error_whose_words_do_not_come_is_told_by_its_status(served: Served) -> None:
    reply = [*answer(429, _SLOW, "Retry-After: 90", sent=5), None]
    ways = [(route, stream) for route in RAW_ROUTES for stream in (False, True)]
    found = await asyncio.gather(*(ask_raw(served, route, reply, stream=stream) for route, stream in ways))
    assert found == [(_RATE, 90, 1)] * len(ways)


async def test_an_answer_may_be_packed_otherwise_than_it_says_and_not_otherwise_than_was_asked(served: Served) -> None:
    for stream in (False, True):
        plain = answer(200, HELLO, "Content-Encoding: gzip")
        assert await ask_raw(served, "raw", plain, stream=stream) == ("hello", None, 1)
        packed = answer(200, HELLO, "Content-Encoding: br")
        found = await ask_raw(served, "raw", packed, stream=stream)
        assert found == ("UNAVAILABLE UPSTREAM_BAD_RESPONSE", None, 1)
