"""Frames arrive whole however they were divided, and no helper process outlives whoever started it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.child_process import (
    BadFrame,
    ChildProcess,
    FrameDecoder,
    ProcessGone,
    encode_frame,
    isolated_python,
)
from tests.support.waiting import PATIENCE, until

ECHO = """
import os, sys
data = sys.stdin.buffer
while header := data.read(4):
    payload = data.read(int.from_bytes(header, "big"))
    if payload == b"end":
        sys.exit(3)
    if payload == b"environment":
        payload = repr(sorted(os.environ)).encode()
    if payload == b"hang":
        import time
        time.sleep(600)
    sys.stdout.buffer.write(len(payload).to_bytes(4, "big") + payload)
    sys.stdout.buffer.flush()
"""


@asynccontextmanager
async def echoing(tmp_path: Path, max_bytes: int = 1000) -> AsyncIterator[ChildProcess]:
    program = tmp_path / "echo.py"
    program.write_text(ECHO)
    child = await ChildProcess.start(isolated_python(program), environment={"ONLY": "this"}, max_bytes=max_bytes)
    try:
        yield child
    finally:
        await child.stop()
        assert not psutil.pid_exists(child.pid)


@given(payloads=st.lists(st.binary(max_size=50), max_size=10), cuts=st.lists(st.integers(1, 20), min_size=1))
def test_payloads_survive_however_their_bytes_are_divided(payloads: list[bytes], cuts: list[int]) -> None:
    data = b"".join(encode_frame(payload) for payload in payloads)
    decoder, found, turn = FrameDecoder(), list[bytes](), 0
    while data:
        size = cuts[turn % len(cuts)]
        found += decoder.feed(data[:size])
        data, turn = data[size:], turn + 1
    assert found == payloads


@given(length=st.integers(11, 2**32 - 1))
def test_a_frame_over_the_limit_is_refused_before_it_is_read(length: int) -> None:
    with pytest.raises(BadFrame, match="limit of 10"):
        list(FrameDecoder(max_bytes=10).feed(length.to_bytes(4, "big")))


def test_a_payload_over_the_limit_is_not_sent() -> None:
    assert len(encode_frame(b"x" * 10, max_bytes=10)) == 14
    with pytest.raises(BadFrame):
        encode_frame(b"x" * 11, max_bytes=10)


async def test_a_process_answers_frame_by_frame_in_the_environment_it_was_given(tmp_path: Path) -> None:
    async with echoing(tmp_path) as child:
        for payload in (b"", b"one", b"x" * 1000):
            await child.write(payload)
            assert await child.read() == payload
        await child.write(b"environment")
        names = await child.read()
        assert names is not None
        # The interpreter adds a name of its own where the locale is not set.
        assert set(eval(names)) - {"LC_CTYPE"} == {"ONLY"}


async def test_the_end_of_a_process_is_noticed_by_readers_and_writers(tmp_path: Path) -> None:
    async with echoing(tmp_path) as child:
        await child.write(b"end")
        assert await child.read() is None
        with pytest.raises(ProcessGone):
            while True:
                await child.write(b"more")
                await asyncio.sleep(0.01)


async def test_a_process_that_sends_too_much_is_refused(tmp_path: Path) -> None:
    async with echoing(tmp_path, max_bytes=8) as child:
        await child.write(b"environ")
        assert await child.read() == b"environ"
        with pytest.raises(BadFrame):
            await child.write(b"123456789")


async def test_a_process_that_works_on_is_killed_after_its_grace(tmp_path: Path) -> None:
    async with echoing(tmp_path) as child:
        await child.write(b"hang")
        started = time.monotonic()
        await asyncio.wait_for(child.stop(grace=0.2), PATIENCE)
        assert time.monotonic() - started >= 0.2
        assert not psutil.pid_exists(child.pid)


async def test_a_process_ends_by_itself_when_its_input_closes(tmp_path: Path) -> None:
    async with echoing(tmp_path) as child:
        await child.write(b"x")
        await child.read()
        await asyncio.wait_for(child.stop(grace=600), PATIENCE)


async def test_a_stop_that_is_cancelled_leaves_no_process_behind(tmp_path: Path) -> None:
    async with echoing(tmp_path) as child:
        await child.write(b"hang")
        stopping = asyncio.create_task(child.stop(grace=60))
        await until(child._input.is_closing)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert not psutil.pid_exists(child.pid)


async def test_a_process_whose_output_nobody_reads_is_stopped_all_the_same(tmp_path: Path) -> None:
    program = tmp_path / "talks.py"
    program.write_text("import sys\nwhile True:\n    sys.stdout.buffer.write(b'x' * 65536)\n")
    process = await ChildProcess.start(isolated_python(program), environment={})
    async with asyncio.timeout(60):
        while not process._output._paused:  # type: ignore[attr-defined]  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
        await process.stop()
    assert not psutil.pid_exists(process.pid)
