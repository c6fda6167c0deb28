"""How long and how often upstreams are tried, and what may pass by trying again."""

import asyncio
from dataclasses import dataclass

from services.common.backoff import Backoff
from services.common.errors import CoxswainError, DeadlineExceeded
from services.common.grpc.call import current_call
from services.models.domain.model import Model


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """How long and how often an upstream is tried."""

    request_timeout: float
    """Seconds for a call whose caller sets no deadline."""
    max_attempts: int
    pauses: Backoff
    longest_wait: float
    """Seconds that a call waits in all because upstreams ask for it."""
    longest_batch_wait: float
    """The same for one request of a call that embeds."""

    def deadline(self) -> float:
        """Return when the call being served has to end, by the event loop's clock."""
        remaining = current_call().time_remaining()
        return asyncio.get_running_loop().time() + (self.request_timeout if remaining is None else remaining)


class RetryableError(Exception):
    """A failure that may pass, and the seconds the upstream asks to wait."""

    def __init__(self, failure: CoxswainError, wait: float = 0.0, *, ours: bool = False) -> None:
        """`ours` says that the upstream is not to blame."""
        super().__init__(failure.message)
        self.failure = failure
        self.wait = wait
        self.ours = ours


def too_late(model: Model) -> DeadlineExceeded:
    """Return the failure of an upstream that has not answered in time."""
    return DeadlineExceeded(
        f'the upstream of "{model.name}" did not answer within the time allowed',
        reason="UPSTREAM_UNAVAILABLE",
        metadata={"model": model.name},
    )
