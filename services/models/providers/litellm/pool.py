"""The helper processes: started ahead of calls, replaced as soon as they end."""

import asyncio
from collections.abc import Collection
from pathlib import Path

import structlog

from services.common.background import BackgroundTasks
from services.common.backoff import Backoff
from services.common.child_process import BadFrame
from services.common.group_lines import wait_without_turn
from services.models.providers.litellm.helper import LitellmHelper

logger = structlog.get_logger(__name__)

_PAUSES = Backoff(1.0, 30.0)


class NotStarted(Exception):
    """No helper works, and none will in time; `seconds` is after how long it may."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class LitellmHelpers:
    """Some helpers that share the calls. None is started before `prepare` or the first call."""

    def __init__(self, home: Path, *, count: int, start_seconds: float, max_bytes: int, ports: Collection[int]) -> None:
        """`start_seconds` is how long one may take to start; for `max_bytes` and `ports` see `LitellmHelper.start`."""
        self._home = home
        self._count = count
        self._start_seconds = start_seconds
        self._max_bytes = max_bytes
        self._ports = ports
        self._tasks = BackgroundTasks()
        self._prepared = False
        self._working: list[LitellmHelper] = []
        self._failures = 0
        self._changed = asyncio.Event()

    def prepare(self) -> None:
        """Begin to start the helpers, unless that has been done."""
        if self._prepared:
            return
        self._prepared = True
        for _ in range(self._count):
            self._tasks.start(self._keep_one())

    async def get(self, until: float) -> LitellmHelper:
        """Return the helper with the fewest calls; `until`, by the loop's clock, is how long to wait for one.

        Raises:
            NotStarted: none works by then, or starting one has failed.
        """
        self.prepare()
        failures = self._failures
        while not (working := [helper for helper in self._working if helper.works]):
            if self._failures != failures:
                raise NotStarted(_PAUSES.pause(1))
            changed = self._changed
            wait_without_turn()
            try:
                async with asyncio.timeout_at(until):
                    await changed.wait()
            except TimeoutError:
                raise NotStarted(1.0) from None
        return min(working, key=lambda helper: helper.load)

    async def close(self) -> None:
        """End all helpers."""
        await self._tasks.stop()

    async def _keep_one(self) -> None:
        """Keep one helper running until it takes no more calls; from then on another task keeps its successor."""
        failed = 0
        while (helper := await self._start()) is None:
            failed += 1
            await asyncio.sleep(_PAUSES.pause(failed))
        try:
            self._working.append(helper)
            self._tell()
            await helper.ended()
            logger.warning("litellm_ended", pid=helper.pid)
            self._working.remove(helper)
            self._tasks.start(self._keep_one())
            await helper.drained()
        finally:
            await helper.stop()

    async def _start(self) -> LitellmHelper | None:
        logger.info("litellm_starting")
        try:
            async with asyncio.timeout(self._start_seconds):
                return await LitellmHelper.start(self._home, self._max_bytes, self._ports)
        except (TimeoutError, OSError, BadFrame):
            logger.exception("litellm_not_started")
            self._failures += 1
            self._tell()
            return None

    def _tell(self) -> None:
        """Wake those who wait for a helper."""
        self._changed.set()
        self._changed = asyncio.Event()
