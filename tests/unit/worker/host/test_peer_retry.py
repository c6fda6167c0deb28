"""Absent services are asked again for a while."""

import pytest

from services.common.backoff import Backoff
from services.common.errors import Unavailable
from services.orchestrator.worker.host import peer_retry
from services.orchestrator.worker.host.peer_retry import retry_while_absent


@pytest.mark.parametrize("absence", [Unavailable("gone"), Unavailable.shutting_down("try another one", 0.1)])
async def test_patience_ends_and_refusals_are_not_waited_out(
    monkeypatch: pytest.MonkeyPatch, absence: Unavailable
) -> None:
    monkeypatch.setattr(peer_retry, "_BACKOFF", Backoff(0.001, 5.0))
    tries = 0

    async def absent() -> None:
        nonlocal tries
        tries += 1
        raise absence

    with pytest.raises(Unavailable):
        await retry_while_absent(absent, 0.02)
    assert tries > 1
    tries = 0

    async def refusing() -> None:
        nonlocal tries
        tries += 1
        raise Unavailable("the upstream is down", reason="UPSTREAM_UNAVAILABLE")

    with pytest.raises(Unavailable):
        await retry_while_absent(refusing, 60)
    assert tries == 1
