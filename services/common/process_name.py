"""What a process is called in the lists of `ps` and `top`."""

import contextlib

from services.common.proc_files import write_proc


def name_process(name: str) -> None:
    """Give this process a name of at most 15 characters, from any of its threads; without effect outside Linux."""
    with contextlib.suppress(OSError):
        write_proc("comm", name)
