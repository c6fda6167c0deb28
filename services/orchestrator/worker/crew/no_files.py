"""Leaves out CrewAI's store of files, which is always empty here: each look into it would cost an event loop."""

from collections.abc import Coroutine
from typing import TypeVar

from crewai.utilities import file_store

T = TypeVar("T")


def leave_out_files() -> None:
    """Have CrewAI find no files in its store, at once."""
    file_store._file_store = None  # noqa: SLF001
    file_store._run_sync = _at_once  # noqa: SLF001


def _at_once(coro: Coroutine[None, None, T]) -> T:
    """Return the result of a coroutine that waits for nothing, as those of a store without files do."""
    try:
        coro.send(None)
    except StopIteration as finished:
        value: T = finished.value
        return value
    coro.close()
    raise RuntimeError("CrewAI's store of files waits for something")
