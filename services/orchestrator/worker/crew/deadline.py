"""How long the agent that works in this thread may still take."""

import contextlib
import contextvars
import time
from collections.abc import Iterator

from services.orchestrator.worker.link.errors import TaskError

_deadline: contextvars.ContextVar[float | None] = contextvars.ContextVar("coxswain_deadline", default=None)


def out_of_time() -> TaskError:
    """Return the error of an agent that used up its max_execution_time."""
    return TaskError("TASK_FAILED", "the agent ran past its max_execution_time", fatal=True)


def remaining_time() -> float | None:
    """Return the seconds the working agent has left, None without a limit."""
    deadline = _deadline.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic())


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Limit what is done inside to `seconds`; an outer limit that ends earlier stays in force."""
    if seconds is None:
        yield
        return
    outer = _deadline.get()
    own = time.monotonic() + seconds
    token = _deadline.set(own if outer is None else min(own, outer))
    try:
        yield
    finally:
        _deadline.reset(token)
