"""`python -m services.suite`, which prints on SIGUSR1 what it holds."""

import asyncio
import ctypes
import gc
import signal
import threading

import psutil

from services.suite.__main__ import main


def _tell(*_: object) -> None:
    gc.collect()
    gc.collect()
    # Of glibc: memory that is free goes back to the system, or what was needed once would count for ever.
    ctypes.CDLL(None).malloc_trim(0)
    process = psutil.Process()
    try:
        tasks = len(asyncio.all_tasks(asyncio.get_running_loop()))
    except RuntimeError:
        tasks = 0
    print(
        f"held: tasks={tasks} memory={process.memory_info().rss} descriptors={process.num_fds()} "
        f"threads={threading.active_count()}",
        flush=True,
    )


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _tell)
    main()
