"""Holds a crew process to its limits: what exceeds one raises an error within it, and nothing else on the host suffers.

Memory is what the kernel counts as data (RLIMIT_DATA): heap and private mappings, what is shared with the fork server
counted once and left out. The address space (RLIMIT_AS) would not do, since libraries reserve far more than they use;
nor would a count of processes (RLIMIT_NPROC), which is one for all processes of the user.
"""

import contextlib
import errno
import os
import resource
import sys
import threading
from collections.abc import Iterator

from services.common.proc_files import read_proc, write_proc
from services.orchestrator.worker.link.errors import TaskError
from services.orchestrator.worker.link.limits import OUT_OF_MEMORY_STATUS, CrewLimits

_KIB, _MIB = 1024, 1024 * 1024
_STACK_MIB = 8
"""What a thread reserves for its stack. It counts as data, and is no fault of the crew's."""
_OOM_SCORE = "500"
"""When a machine has no memory left, the kernel shall take a crew process and not its host."""


class ThreadsExceeded(RuntimeError):
    """Code in a crew process started too many threads."""


def impose(limits: CrewLimits) -> None:
    """Hold this process to its limits, for good."""
    files, size = limits.open_files, limits.file_mib * _MIB
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    threading.excepthook = _end_without_memory
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            write_proc("oom_score_adj", _OOM_SCORE)
        most = _data_bytes() + limits.memory_mib * _MIB
        _limit_data(most, 0, limits)
    else:
        most = 0
    start = threading.Thread.start

    # Not by an audit hook: Python 3.11 tells none of threads.
    def start_within_limits(thread: threading.Thread) -> None:
        threads = threading.active_count() + 1
        if threads > limits.threads:
            raise ThreadsExceeded(limits.too_many_threads().message)
        if most:
            _limit_data(most, threads, limits)
        start(thread)

    threading.Thread.start = start_within_limits  # type: ignore[assignment, method-assign]


def limit_error(error: BaseException, limits: CrewLimits) -> TaskError | None:
    """Return which limit is behind an error; None if none is."""
    for each in _causes(error):
        match each:
            case MemoryError():
                return limits.out_of_memory()
            case ThreadsExceeded():
                return limits.too_many_threads()
            case OSError(errno=errno.EMFILE):
                return limits.too_many_files()
            case OSError(errno=errno.EFBIG):
                return limits.too_large_file()
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _end_without_memory(arguments: threading.ExceptHookArgs) -> None:
    """End the process when a thread has died for want of memory: nobody would do its work."""
    if issubclass(arguments.exc_type, MemoryError):
        os._exit(OUT_OF_MEMORY_STATUS)
    threading.__excepthook__(arguments)


def _data_bytes() -> int:
    _, _, data = read_proc("status").partition(b"\nVmData:")
    return int(data.split(maxsplit=1)[0]) * _KIB


def _limit_data(most: int, threads: int, limits: CrewLimits) -> None:
    soft, hard = (most + count * _STACK_MIB * _MIB for count in (threads, limits.threads))
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
