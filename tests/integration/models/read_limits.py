"""Limits on reads of upstreams that pass when a test says so."""

from types import ModuleType

import pytest

from services.models.providers.read_limit import ReadLimit
from tests.integration.models.support import Installation
from tests.support.waiting import until


class ReadLimits:
    """Ends reads of one module, whose own limits are to be so long that they never pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
        self._limits = limits = list[ReadLimit]()

        class Noted(ReadLimit):
            def __init__(self) -> None:
                super().__init__()
                limits.append(self)

        monkeypatch.setattr(module, "ReadLimit", Noted)

    async def pass_in(self, models: Installation, number: int) -> None:
        """Wait until the upstream hangs in that call, the first of which is 1, and end the read under way."""
        await models.llm.wait_for_calls(1, number=number, hanging=True)
        await until(self._one_passes, "a read is under way")

    def _one_passes(self) -> bool:
        for limit in self._limits:
            if limit._task is not None and not limit.expired:
                limit.until(0.0)._fire()
                return True
        return False
