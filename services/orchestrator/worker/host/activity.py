"""What goes on in a run: how much is being done for each task, and how much of that is only waiting."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator


class Activity:
    """Counts by the index of the task. For the thread of the event loop only."""

    def __init__(self) -> None:
        self._working: dict[int, int] = {}
        """How much is being done for each task that is at work."""
        self._waiting: Counter[int] = Counter()
        self.on_less: Callable[[], object] = lambda: None
        """Called whenever less is being done than before."""

    @property
    def rests(self) -> bool:
        """Whether tasks are at work and nothing is done for any of them but waiting."""
        return bool(self._working) and all(0 < count == self._waiting[index] for index, count in self._working.items())

    @contextlib.contextmanager
    def task(self, index: int) -> Iterator[None]:
        """A task is at work inside."""
        self._working[index] = 0
        try:
            yield
        finally:
            del self._working[index]
            self.on_less()

    @contextlib.contextmanager
    def work(self, index: int) -> Iterator[None]:
        """Something is done for a task inside."""
        self.begin(index)
        try:
            yield
        finally:
            self.end(index)

    def begin(self, index: int) -> None:
        """Note that something is being done for a task."""
        if index in self._working:
            self._working[index] += 1

    def end(self, index: int) -> None:
        """Note that it is done."""
        if self._working.get(index):
            self._working[index] -= 1
            self.on_less()

    @contextlib.contextmanager
    def wait(self, index: int) -> Iterator[None]:
        """What is done for a task inside is waiting."""
        self._waiting[index] += 1
        self.on_less()
        try:
            yield
        finally:
            self._waiting[index] -= 1
