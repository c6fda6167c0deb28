"""What a process does first of all, before its imports: it ends on signals, and is not the first one of a container."""

import contextlib
import os
import signal
from types import FrameType

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def end_on_signals() -> None:
    """End this process at once on SIGTERM and SIGINT, until it has handlers of its own.

    The kernel ignores both for the first process of a container, which would import and start for seconds, be killed at
    the end of its grace, and hold up whoever waits for it. That process also inherits every orphan, to be reaped. So it
    does nothing but that, and a child of it returns from here.
    """
    ending = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    child = os.fork() if os.getpid() == 1 else 0
    if child:
        _pass_signals_on(child)
    else:
        for number in ending:
            signal.signal(number, lambda received, _frame: os._exit(128 + received))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
    if child:
        _reap_until_the_end_of(child)


def _pass_signals_on(child: int) -> None:
    def pass_on(received: int, _frame: FrameType | None) -> None:
        # It may just have ended.
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, received)

    for number in _PASSED_ON:
        signal.signal(number, pass_on)


def _reap_until_the_end_of(child: int) -> None:
    """Reap all children until this one ends, and end as it did."""
    while True:
        process, status = os.wait()
        if process == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
