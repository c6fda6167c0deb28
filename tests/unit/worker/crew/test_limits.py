"""What exceeds a limit of a crew process raises an error there, and the error names the setting."""

import errno
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from services.orchestrator.worker.crew.limits import limit_error
from services.orchestrator.worker.host.crew_environment import crew_environment
from services.orchestrator.worker.link.limits import OUT_OF_MEMORY_STATUS, CrewLimits
from tests.support.child_process import run_python

LIMITS = CrewLimits(memory_mib=64, threads=20, open_files=64, file_mib=1)

_LIMITED = f"""
import json, os, sys, tempfile, threading
from services.orchestrator.worker.crew.guard import close_off
from services.orchestrator.worker.crew.limits import impose, limit_error
from services.orchestrator.worker.link.limits import CrewLimits
limits = CrewLimits.read({LIMITS.environment!r})
impose(limits)
close_off()

def tried(work):
    try:
        work()
    except Exception as error:
        exceeded = limit_error(error, limits)
        return exceeded.message if exceeded else type(error).__name__
    return "done"

def write():
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 2_000_000)

def start(count):
    over = threading.Event()
    threads = []
    try:
        for _ in range(count):
            threads.append(threading.Thread(target=over.wait))
            threads[-1].start()
    finally:
        over.set()
        for thread in threads:
            if thread.ident:
                thread.join()
"""

_TRIES = {
    "little memory": "lambda: bytearray(30_000_000)",
    "memory": "lambda: bytearray(200_000_000)",
    "few threads": "lambda: start(15)",
    "threads": "lambda: start(30)",
    "files": "lambda: [open(os.devnull) for _ in range(100)]",
    "file": "write",
    "process": "os.fork",
    "program": "lambda: os.system('true')",
}


def in_limits(code: str) -> tuple[int, str]:
    return run_python(["-c", _LIMITED + code])


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux")
def test_each_limit_is_named_with_its_setting() -> None:
    pairs = ", ".join(f"{name!r}: tried({work})" for name, work in _TRIES.items())
    status, output = in_limits(f"print(json.dumps({{{pairs}}}))")
    assert status == 0, output
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    assert found.pop("little memory") == found.pop("few threads") == "done", "stacks do not count as memory"
    assert found.pop("process") == found.pop("program") == "ProcessRefused"
    prefix = "the process that runs the crew "
    assert found == {
        name: f"{prefix}{what}; give the crew less at once, or raise COXSWAIN_WORKER_CREW_{setting}"
        for name, what, setting in (
            ("memory", "needs more than 64 MiB of memory", "MEMORY_MIB"),
            ("threads", "needs more than 20 threads", "THREADS"),
            ("files", "has more than 64 files open", "OPEN_FILES"),
            ("file", "writes a file of more than 1 MiB", "FILE_MIB"),
        )
    }


def test_many_threads_may_use_memory_on_machines_of_many_processors(tmp_path: Path) -> None:
    # Until there are so many arenas the C library does not look how few processors there are here.
    environment = crew_environment(tmp_path) | {"MALLOC_ARENA_TEST": "1000"}
    code = """
import os, threading
from services.orchestrator.worker.crew.limits import impose
from services.orchestrator.worker.link.limits import CrewLimits
limits = CrewLimits.read(os.environ)
impose(limits)
over, held = threading.Event(), []
def work():
    held.append(bytearray(10_000))
    over.wait()
try:
    for _ in range(limits.threads - 1):
        threading.Thread(target=work).start()
finally:
    over.set()
print("done")
"""
    assert run_python(["-c", code], environment=environment) == (0, "done")


def test_processor_time_is_limited_by_the_time_that_is_left() -> None:
    code = """
from datetime import timedelta
from services.orchestrator.worker.crew.limits import limit_processor_time
import resource
limit_processor_time(timedelta(seconds=600))
print(*resource.getrlimit(resource.RLIMIT_CPU), len(os.sched_getaffinity(0)))
"""
    status, output = in_limits(code)
    assert status == 0, output
    soft, hard, processors = map(int, output.split())
    assert 660 * processors <= soft == hard <= 720 * processors


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux")
def test_a_thread_that_dies_for_want_of_memory_ends_the_process() -> None:
    code = "threading.Thread(target=lambda: bytearray(200_000_000)).start()\nthreading.Event().wait(600)"
    assert in_limits(code)[0] == OUT_OF_MEMORY_STATUS


def test_the_limit_is_found_behind_other_errors() -> None:
    def failure(cause: BaseException) -> BaseException:
        try:
            try:
                raise cause
            except BaseException:
                raise ValueError("the tool failed")  # noqa: B904 - as libraries do
        except ValueError as error:
            return error

    assert limit_error(failure(LookupError()), LIMITS) is None
    assert limit_error(failure(OSError(errno.ENOENT, "no file")), LIMITS) is None
    found = limit_error(failure(MemoryError()), LIMITS)
    assert found is not None
    assert (found.reason, found.fatal) == ("CREW_PROCESS_LIMIT", True)


def test_limits_reach_the_crew_process_by_its_environment() -> None:
    assert CrewLimits.read(LIMITS.environment | {"PATH": "/bin"}) == LIMITS
    assert CrewLimits.read({}) == CrewLimits()
