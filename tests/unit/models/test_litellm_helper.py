"""The helper process of litellm, when it does not do as it should."""

import asyncio
import json
from typing import Any

import pytest

from services.common.child_process import BadFrame, ProcessGone
from services.common.group_lines import GroupLines
from services.models.providers.litellm.helper import HelperLeaves, LitellmError, LitellmHelper, Progress
from services.models.providers.litellm.pool import LitellmHelpers


class Process:
    """Gives prepared frames instead of running anything."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[Any] = asyncio.Queue()
        self.written: list[dict[str, Any]] = []
        self.stopped = False

    async def read(self) -> bytes | None:
        frame = await self.frames.get()
        if isinstance(frame, Exception):
            raise frame
        return None if frame is None else json.dumps(frame).encode()

    async def write(self, payload: bytes) -> None:
        self.written.append(json.loads(payload))

    def write_soon(self, payload: bytes) -> None:
        self.written.append(json.loads(payload))

    async def has_been_sent(self, calls: int) -> None:
        while len(self.written) < calls:  # noqa: ASYNC110 - it takes no more than a turn of the loop
            await asyncio.sleep(0)

    pid = 0

    async def stop(self, grace: float = 0.0) -> None:
        self.stopped = True


@pytest.fixture
async def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    process = Process()

    async def start(*_arguments: Any, **_named: Any) -> Process:
        return process

    monkeypatch.setattr("services.models.providers.litellm.helper.ChildProcess.start", start)
    process.frames.put_nowait({"ready": True})
    return process


async def collect(helper: LitellmHelper) -> list[Any]:
    return [
        document
        async for batch in helper.call("stream", {}, "https://example.com", {}, Progress())
        for document in batch
    ]


async def test_frames_go_to_the_call_they_belong_to(process: Process, tmp_path: Any) -> None:
    helper = await LitellmHelper.start(tmp_path / "home", 1000, {443})
    calls = [asyncio.create_task(collect(helper)) for _ in range(2)]
    await process.has_been_sent(2)
    for frame in (
        {"id": 1, "document": "b"},
        {"id": 0, "document": "a"},
        {"id": 7, "document": "of nobody"},
        {"id": 1, "end": True},
        {"id": 0, "error": {"code": "c"}},
    ):
        process.frames.put_nowait(frame)
    assert await calls[1] == ["b"]
    with pytest.raises(LitellmError):
        await calls[0]
    assert [frame["kind"] for frame in process.written] == ["stream", "stream"]
    await helper.stop()


async def test_what_is_taken_is_reported_and_what_is_not_taken_is_not(process: Process, tmp_path: Any) -> None:
    helper = await LitellmHelper.start(tmp_path / "home", 1000, {443})
    batches = helper.call("stream", {}, "https://example.com", {}, Progress())
    first = asyncio.ensure_future(anext(batches))
    await process.has_been_sent(1)
    large = "x" * 100_000
    process.frames.put_nowait({"id": 0, "document": large})
    assert await first == [large]
    process.frames.put_nowait({"id": 0, "document": "b"})
    process.frames.put_nowait({"id": 0, "document": "c"})
    while not process.frames.empty():  # noqa: ASYNC110 - it takes no more than a turn of the loop
        await asyncio.sleep(0)
    assert [frame["kind"] for frame in process.written] == ["stream"]
    # Asking for more says that there is room again; what has arrived meanwhile comes together.
    assert await anext(batches) == ["b", "c"]
    assert process.written[-1] == {"id": 0, "kind": "read", "bytes": len(json.dumps({"id": 0, "document": large}))}
    await batches.aclose()
    assert process.written[-1] == {"id": 0, "kind": "cancel"}
    assert helper.load == 0
    await helper.stop()


@pytest.mark.parametrize("end", [None, BadFrame("too large"), {"no": "id"}, ["neither"]])
async def test_calls_fail_when_the_process_ends_or_cannot_be_read_any_more(
    process: Process, tmp_path: Any, end: Any
) -> None:
    helper = await LitellmHelper.start(tmp_path / "home", 1000, {443})
    call = asyncio.create_task(collect(helper))
    await process.has_been_sent(1)
    process.frames.put_nowait(end)
    with pytest.raises(ProcessGone):
        await call
    assert not helper.works
    # One that has ended by itself needs no stop.
    assert process.stopped == (end is not None)
    await helper.stop()


async def test_a_process_that_ends_before_it_takes_calls_is_no_helper(process: Process, tmp_path: Any) -> None:
    process.frames.get_nowait()
    process.frames.put_nowait(None)
    with pytest.raises(ProcessGone):
        await LitellmHelper.start(tmp_path / "home", 1000, {443})
    assert process.stopped


async def test_a_helper_that_leaves_refuses_new_calls_and_ends_those_in_it(process: Process, tmp_path: Any) -> None:
    helper = await LitellmHelper.start(tmp_path / "home", 1000, {443})
    begun = asyncio.create_task(collect(helper))
    await process.has_been_sent(1)
    late = asyncio.create_task(collect(helper))
    await process.has_been_sent(2)
    process.frames.put_nowait({"id": 1, "leaving": True})
    with pytest.raises(HelperLeaves):
        await late
    await helper.ended()
    assert not helper.works
    drained = asyncio.create_task(helper.drained())
    process.frames.put_nowait({"id": 0, "document": "a"})
    process.frames.put_nowait({"id": 0, "end": True})
    assert not drained.done()
    assert await begun == ["a"]
    await drained
    assert not process.stopped
    await helper.stop()


async def test_calls_in_a_helper_that_is_left_go_on_while_its_successor_takes_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    runs: list[Process] = []

    async def start(*_arguments: Any, **_named: Any) -> Process:
        runs.append(Process())
        runs[-1].frames.put_nowait({"ready": True})
        return runs[-1]

    monkeypatch.setattr("services.models.providers.litellm.helper.ChildProcess.start", start)
    helpers = LitellmHelpers(tmp_path / "home", count=1, start_seconds=60.0, max_bytes=1000, ports={443})
    until = asyncio.get_running_loop().time() + 60
    first = await helpers.get(until)
    begun = asyncio.create_task(collect(first))
    await runs[0].has_been_sent(1)
    late = asyncio.create_task(collect(first))
    await runs[0].has_been_sent(2)
    runs[0].frames.put_nowait({"id": 1, "leaving": True})
    with pytest.raises(ProcessGone):
        await late
    second = await helpers.get(until)
    assert second is not first
    assert [run.stopped for run in runs] == [False, False]
    runs[0].frames.put_nowait({"id": 0, "document": "a"})
    runs[0].frames.put_nowait({"id": 0, "end": True})
    assert await begun == ["a"]
    while not runs[0].stopped:  # noqa: ASYNC110 - it takes no more than some turns of the loop
        await asyncio.sleep(0)
    await helpers.close()
    assert runs[1].stopped


async def test_who_waits_for_a_helper_to_start_holds_no_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    async def start(*_arguments: Any, **_named: Any) -> Process:
        return await asyncio.Future()

    monkeypatch.setattr("services.models.providers.litellm.helper.ChildProcess.start", start)
    helpers = LitellmHelpers(tmp_path / "home", count=1, start_seconds=3600.0, max_bytes=1000, ports={443})
    lines = GroupLines(1, alone=1)

    async def call() -> None:
        async with lines.turn("sales", 3600.0, lambda: False):
            await helpers.get(asyncio.get_running_loop().time() + 3600)

    waiting = asyncio.create_task(call())
    await asyncio.sleep(0)
    async with asyncio.timeout(60), lines.turn("sales", 3600.0, lambda: False):
        assert not waiting.done()
    waiting.cancel()
    await helpers.close()
