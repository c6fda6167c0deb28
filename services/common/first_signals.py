"""What SIGTERM and SIGINT do until a process has its own handlers: first of all imports, and itself without any."""

import os
import signal


def end_on_signals() -> None:
    """End this process at once on SIGTERM and SIGINT.

    The kernel ignores both for the first process of a container, which would import and start for seconds, be killed at
    the end of its grace, and hold up whoever waits for it.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: os._exit(128 + received))
