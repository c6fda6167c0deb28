"""What the suite does with what its worker hosts say."""

import asyncio
from pathlib import Path

import pytest

from services.suite import workers
from services.suite.workers import WorkerPool
from tests.support.child_process import WAIT_SECONDS, scrubbed_environment

# Runs in place of a worker host, as Python starts.
_TALKER = """
import json, threading
print("hello")
print(json.dumps(["no", "announcement"]))
print("x" * 100_000)
print("y" * 3_000_000)
print(json.dumps({"event": "worker_ready"}))
print("good", "bye", flush=True)
threading.Event().wait()
"""


async def _nobody_asks(_executor_id: str) -> None:
    pass


async def test_what_a_worker_host_prints_is_passed_on_and_cannot_stop_the_suite_from_listening(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(_TALKER)
    pool = WorkerPool(
        1, scrubbed_environment(tmp_path, PYTHONPATH=str(tmp_path)), silence_seconds=WAIT_SECONDS, on_end=_nobody_asks
    )
    printed = ""
    pool.start()
    try:
        await pool.wait_warm()
        while "good bye" not in printed:
            await asyncio.sleep(0.01)
            printed += capfd.readouterr().out
    finally:
        pool.kill()
        await pool.stop(0)
    lines = printed.splitlines()
    assert lines[:3] == ["worker 0: hello", 'worker 0: ["no", "announcement"]', "worker 0: " + "x" * 100_000]
    assert "worker 0: [left out: a line of more than 1048576 bytes]" in lines
    assert lines[-1] == "worker 0: good bye"
    assert "worker_ready" not in printed, "the suite has an announcement of its own"


# Takes executions, is stopped, and after its restart shows nothing any more.
_HANGS = """
import json, os, signal
print(json.dumps({"event": "worker_ready", "executor_id": f"host-{os.getpid()}"}), flush=True)
print(json.dumps({"event": "worker_works", "executor_id": f"host-{os.getpid()}"}), flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


async def test_a_worker_host_that_hangs_is_killed_and_its_end_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(_HANGS)
    monkeypatch.setattr(workers, "_TICK_SECONDS", 0.01)
    ended: asyncio.Queue[str] = asyncio.Queue()
    environment = scrubbed_environment(tmp_path, PYTHONPATH=str(tmp_path))
    pool = WorkerPool(1, environment, silence_seconds=0.05, on_end=ended.put)
    pool.start()
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            first, second = await ended.get(), await ended.get()
    finally:
        pool.kill()
        await pool.stop(0)
    assert first != second, "another one was started in its place"
