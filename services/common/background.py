"""Tasks that run beside calls until their owner stops them."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from services.common.group_turns import nobodys_context

T = TypeVar("T")


class BackgroundTasks:
    """The tasks of one owner; those that end by themselves are forgotten."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` as a task and return it."""
        # The loop itself holds tasks weakly.
        task = asyncio.create_task(work, context=nobodys_context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        """Cancel all tasks and wait for their ends; how they end is ignored."""
        running = list(self._tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
