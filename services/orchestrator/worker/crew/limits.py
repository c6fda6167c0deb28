"""Holds a crew process to its limits: what exceeds one raises an error within it, and nothing else on the host suffers.

Memory is what the kernel counts as data (RLIMIT_DATA): heap and private mappings, what is shared with the fork server
counted once and left out. Mappings that are shared do not count there, so the address space (RLIMIT_AS) is limited too,
with room for what libraries reserve and never use. A count of processes (RLIMIT_NPROC) would not do: it is one for all
processes of the user. That none are started is the business of `containment`.
"""

import contextlib
import errno
import math
import os
import resource
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta

from services.common.proc_files import read_proc, write_proc
from services.common.resource_limits import limit_resource
from services.orchestrator.worker.link.errors import TaskError
from services.orchestrator.worker.link.limits import OUT_OF_MEMORY_STATUS, CrewLimits

_KIB, _MIB = 1024, 1024 * 1024
_STACK_MIB = 8
"""What a thread reserves for its stack. It counts as data, and is no fault of the crew's."""
_RESERVED_MIB = 2048
"""Addresses that libraries may reserve beyond the memory they use, such as the C library for the memory of threads
(MALLOC_ARENA_MAX)."""
_GRACE = timedelta(minutes=1)
_OOM_SCORE = "500"
"""When a machine has no memory left, the kernel shall take a crew process and not its host."""


class ThreadsExceeded(RuntimeError):
    """Code in a crew process started too many threads."""


def impose(limits: CrewLimits) -> None:
    """Hold this process to its limits, for good."""
    files, size = limits.open_files, limits.file_mib * _MIB
    limit_resource(resource.RLIMIT_NOFILE, files)
    limit_resource(resource.RLIMIT_FSIZE, size)
    limit_resource(resource.RLIMIT_CORE, 0)
    threading.excepthook = _end_without_memory
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            write_proc("oom_score_adj", _OOM_SCORE)
        data, addresses = _bytes_of("VmData"), _bytes_of("VmSize")
        most = data + limits.memory_mib * _MIB
        _limit_data(most, 0, limits)
        size = addresses + (limits.memory_mib + limits.threads * _STACK_MIB + _RESERVED_MIB) * _MIB
        limit_resource(resource.RLIMIT_AS, size)
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


def limit_processor_time(seconds: timedelta) -> None:
    """Have the system end this process should it use all processors for longer than that; its host ends it before."""
    processors = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    spent = resource.getrusage(resource.RUSAGE_SELF)
    most = math.ceil(spent.ru_utime + spent.ru_stime + (seconds + _GRACE).total_seconds() * processors)
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))


def limit_error(error: BaseException, limits: CrewLimits) -> TaskError | None:
    """Return which limit is behind an error; None if none is."""
    for each in _causes(error):
        match each:
            case MemoryError():
                return limits.out_of_memory()
            case ThreadsExceeded():
                return limits.too_many_threads()
            case OSError(errno=errno.ENOMEM):
                return limits.out_of_memory()
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


def _bytes_of(name: str) -> int:
    _, _, value = read_proc("status").partition(f"\n{name}:".encode())
    return int(value.split(maxsplit=1)[0]) * _KIB


def _limit_data(most: int, threads: int, limits: CrewLimits) -> None:
    soft, hard = (most + count * _STACK_MIB * _MIB for count in (threads, limits.threads))
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
