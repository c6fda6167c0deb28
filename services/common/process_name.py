"""What a process is called in the lists of `ps` and `top`."""

import contextlib
import os

from services.common.proc_files import open_proc


class ProcessName:
    """Gives this process names of at most 15 characters, from any of its threads; without effect outside Linux.

    Its file is opened once: a process that is contained cannot open it any more.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        with contextlib.suppress(OSError):
            self._file = open_proc("comm", os.O_WRONLY)

    def change(self, name: str) -> None:
        """Give the process another name."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.write(self._file, name.encode())
