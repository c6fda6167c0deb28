"""The litellm helpers as processes: when they start, what their end costs, and what they keep in memory."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import pytest_asyncio
from aiohttp import web

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1 import model_pb2, model_service_pb2_grpc
from services.common.containment.contain import Measure
from services.common.grpc.call import acting_as
from services.models.settings import ModelsSettings
from tests.integration.auth.support import token_of
from tests.integration.models.support import SEED, Installation, ask, ask_stream, refusal, serve_models
from tests.support.harness import ALICE
from tests.support.http_emulator import HttpEmulator
from tests.support.waiting import until
from tests.unit.common.test_containment import holding_here

# A helper starts at low priority: on a busy machine the first call waits for minutes.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]
MODEL = "together_ai/some-model"
LITELLM_SEED: list[dict[str, Any]] = [{"name": MODEL, "provider": "litellm", "capabilities": ["chat"]}]
LITELLM_SEED[0]["upstream_model"] = MODEL
MEGABYTE = 1024 * 1024
LIMIT = 8 * MEGABYTE


def helpers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any("litellm/process.py" in part for part in child.cmdline()):
                found.append(child)
    return found


def begins_to_start(installation: Installation) -> bool:
    """Return whether helpers have begun to start: decided before the answer to the call that is the reason."""
    service: Any = installation.harness.services["models"]
    prepared: bool = service._helpers._prepared
    return prepared


class Floods(HttpEmulator):
    """Streams as much as is read where a prompt says "flood", and short answers elsewhere.

    While `goes_on` is not set, a flood stops below the limit of an answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0
        self.open = 0
        self.begun = 0
        self.hanging = 0
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    def install(self, app: web.Application) -> None:
        app.router.add_post("/v1/chat/completions", self._answer)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        word, _, size = body["messages"][-1]["content"].partition(" ")
        if word == "hang":
            self.hanging += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.hanging -= 1
        if word == "large":
            return web.json_response(_whole("x" * int(size)))
        if word != "flood":
            return web.json_response(_whole("short"))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        event = json.dumps(
            {"id": "1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "x" * 4000}}]}
        )
        data = f"data: {event}\n\n".encode()
        self.open += 1
        self.begun += 1
        sent = 0
        try:
            while self.sent < int(size):
                if sent > LIMIT // 2:
                    await self.goes_on.wait()
                await response.write(data)
                sent += len(data)
                self.sent += len(data)
        finally:
            self.open -= 1
        return response


def _whole(text: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": message}], "model": "m"}


@contextlib.asynccontextmanager
async def serve(
    directory: Path, monkeypatch: pytest.MonkeyPatch, upstream: HttpEmulator, *, key: str = "a-key", **settings: Any
) -> AsyncIterator[Installation]:
    monkeypatch.setenv("TOGETHER_AI_API_KEY", key)
    monkeypatch.setenv("TOGETHER_AI_BASE_URL", f"{upstream.url}/v1")
    values = {"litellm_base_urls": {"together_ai": f"{upstream.url}/v1"}, "seed": LITELLM_SEED, **settings}
    async with serve_models(directory, monkeypatch, key="", **values) as installation:
        yield installation


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Installation, Floods]]:
    """Two helpers on any machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("services.models.service.os.cpu_count", lambda: 2)
        directory = tmp_path_factory.mktemp("processes")
        async with (
            Floods() as upstream,
            serve(directory, patch, upstream, litellm_processes=7, max_response_bytes=LIMIT) as installation,
        ):
            yield installation, upstream


def say(text: str) -> pb.Message:
    return pb.Message(role=pb.MESSAGE_ROLE_USER, content=[pb.ContentPart(text=text)])


async def test_helpers_start_before_the_first_call_and_no_more_than_the_machine_has_cores(
    served: tuple[Installation, Floods],
) -> None:
    await until(lambda: len(helpers()) == 2)
    assert (await served[0].inference().Complete(ask(MODEL))).text == "short"
    assert len(helpers()) == 2
    # The first start is of low priority; the process that serves is not.
    assert {helper.nice() for helper in helpers()} == {psutil.Process().nice()}


async def test_the_kernel_contains_helpers(served: tuple[Installation, Floods]) -> None:
    await served[0].inference().Complete(ask(MODEL))
    holding = holding_here()
    for helper in helpers():
        status = (Path("/proc") / str(helper.pid) / "status").read_text() if holding else ""
        for measure, line in {
            Measure.NO_NEW_PRIVILEGES: "NoNewPrivs:\t1",
            Measure.CALL_FILTER: "Seccomp:\t2",
            Measure.NO_CAPABILITIES: f"CapEff:\t{0:016}",
        }.items():
            assert measure not in holding or line in status.splitlines(), status


async def test_a_reader_that_does_not_read_stops_its_own_stream_and_costs_no_memory(
    served: tuple[Installation, Floods],
) -> None:
    installation, upstream = served
    for _ in range(4):
        await installation.inference().Complete(ask(MODEL))
    before = sum(helper.memory_info().rss for helper in helpers())
    upstream.sent = 0
    call = installation.inference().StreamComplete(ask_stream(MODEL, say(f"flood {100 * MEGABYTE}")))
    await call.read()
    # Other calls go on in both helpers, one of which has the stream that nobody reads.
    for _ in range(20):
        assert (await installation.inference().Complete(ask(MODEL))).text == "short"
    assert upstream.sent < 50 * MEGABYTE
    assert sum(helper.memory_info().rss for helper in helpers()) - before < 100 * MEGABYTE
    call.cancel()
    await until(lambda: upstream.open == 0)
    assert upstream.sent < 50 * MEGABYTE


async def test_streams_that_are_read_as_fast_as_they_come_end_at_the_limit_and_hold_nobody_up(
    served: tuple[Installation, Floods],
) -> None:
    installation, upstream = served
    # A helper has started by then.
    await installation.inference().Complete(ask(MODEL))
    upstream.sent = upstream.begun = 0
    upstream.goes_on.clear()

    async def read_all() -> None:
        async for _ in installation.inference().StreamComplete(ask_stream(MODEL, say(f"flood {100 * MEGABYTE}"))):
            pass

    floods = [asyncio.create_task(read_all()) for _ in range(2)]
    await until(lambda: upstream.begun == 2)
    answers = await asyncio.gather(*(installation.inference().Complete(ask(MODEL)) for _ in range(8)))
    assert {answer.text for answer in answers} == {"short"}
    assert upstream.open == 2
    upstream.goes_on.set()
    for flood in floods:
        failure = await refusal(flood)
        assert failure.reason == "UPSTREAM_BAD_RESPONSE"
        assert "larger" in failure.message
    await until(lambda: upstream.open == 0)
    assert upstream.sent < 100 * MEGABYTE


async def test_a_whole_answer_has_the_same_limit(served: tuple[Installation, Floods]) -> None:
    failure = await refusal(served[0].inference().Complete(ask(MODEL, say(f"large {LIMIT}"))))
    assert failure.reason == "UPSTREAM_BAD_RESPONSE"
    assert "larger" in failure.message


async def test_the_end_of_a_helper_costs_its_own_calls_only_and_another_one_starts(
    served: tuple[Installation, Floods],
) -> None:
    installation, upstream = served
    await until(lambda: len(helpers()) == 2)
    # One call hangs in each helper, as each call goes where the fewest are.
    calls = [asyncio.ensure_future(installation.inference().Complete(ask(MODEL, say("hang")))) for _ in range(2)]
    await until(lambda: upstream.hanging == 2)
    killed, spared = helpers()
    killed.kill()
    # The call that was in it is tried again, in the other helper.
    await until(lambda: not killed.is_running() or killed.status() == psutil.STATUS_ZOMBIE)
    await until(lambda: upstream.hanging == 2)
    assert not any(call.done() for call in calls)
    assert (await installation.inference().Complete(ask(MODEL))).text == "short"
    await until(lambda: len(helpers()) == 2)
    assert spared in helpers()
    for call in calls:
        call.cancel()
    await until(lambda: upstream.hanging == 0)


async def test_without_a_model_of_litellms_no_helper_runs_until_a_group_adds_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = set(helpers())
    async with Floods() as upstream, serve(tmp_path, monkeypatch, upstream, seed=SEED) as installation:
        await installation.models().ListModels(model_pb2.ListModelsRequest())
        assert not begins_to_start(installation)
        model = model_pb2.Model(
            name="sales/groq",
            provider=model_pb2.PROVIDER_LITELLM,
            upstream_model="groq/some-model",
            capabilities=model_pb2.Capabilities(chat=True),
        )
        await installation.models().CreateModel(model_pb2.CreateModelRequest(model=model))
        await until(lambda: len(set(helpers()) - others) == 1)
    # A group's model is there when the service starts again, so it starts one too.
    async with Floods() as upstream, serve(tmp_path, monkeypatch, upstream, seed=SEED):
        await until(lambda: len(set(helpers()) - others) == 1)


@pytest.mark.parametrize("key", ["", "a-key"])
async def test_for_packaged_models_a_helper_starts_once_one_has_a_key_is_looked_up_or_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    others = set(helpers())
    monkeypatch.setattr(ModelsSettings.model_fields["seed_file"], "default", tmp_path / "seed.yaml")
    async with Floods() as upstream, serve(tmp_path, monkeypatch, upstream, key=key) as installation:
        assert not begins_to_start(installation)
        await installation.models().ListModels(model_pb2.ListModelsRequest())
        if not key:
            assert not begins_to_start(installation)
            stub: Any = model_service_pb2_grpc.ModelServiceStub(
                installation.harness.peers("orchestrator").channel("models")
            )
            with acting_as(await token_of(installation.harness, ALICE)):
                await stub.GetModel(model_pb2.GetModelRequest(name=MODEL))
        await until(lambda: len(set(helpers()) - others) == 1)
        if key:
            await installation.inference().Complete(ask(MODEL))
    # Auth tells nobody's keys at a start. What was called before is called again.
    async with Floods() as upstream, serve(tmp_path, monkeypatch, upstream, key=key) as installation:
        if key:
            await until(lambda: begins_to_start(installation))
        else:
            assert not begins_to_start(installation)


@pytest.mark.parametrize("program", ["import time; time.sleep(600)", "raise SystemExit(1)"])
async def test_a_call_hears_before_its_deadline_that_no_helper_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    script = tmp_path / "process.py"
    script.write_text(program)
    monkeypatch.setattr("services.models.providers.litellm.helper._PROGRAM", script)
    # A busy machine takes longer than what is left by default.
    monkeypatch.setattr("services.models.providers.litellm.provider._ANSWER_SECONDS", 3.0)
    monkeypatch.setattr("services.models.providers.litellm.provider._ANSWER_SHARE", 0.5)
    async with Floods() as upstream, serve(tmp_path, monkeypatch, upstream) as installation:
        failure = await refusal(installation.inference().Complete(ask(MODEL), timeout=6))
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")
        assert "has not started" in failure.message
        assert failure.retry_after is not None
