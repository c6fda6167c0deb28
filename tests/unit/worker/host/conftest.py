"""The calls of a crew process, with everything around them played."""

import pytest

from services.common.backoff import Backoff
from services.orchestrator.worker.host import peer_retry
from tests.unit.worker.host.call_world import World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Calls of a crew process; what does not answer is asked again at once."""
    monkeypatch.setattr(peer_retry, "_BACKOFF", Backoff(0.001, 5.0))
    return World()
