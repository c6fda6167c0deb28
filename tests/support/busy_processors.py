"""Programs that do nothing but keep all processors busy."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def busy_processors(loops_each: int) -> Iterator[None]:
    """Run that many endless loops for each processor until the block ends."""
    processors = len(os.sched_getaffinity(0))
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops_each * processors)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
        for loop in loops:
            loop.wait()
