"""The circuits of upstreams: which ones are left alone for a while, counted and logged."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from prometheus_client import Counter, Gauge

from services.common.circuit_breaker import CircuitBreaker, Trial
from services.common.counts import from_the_start
from services.models.domain.model import OWN_MODELS, Provider

logger = structlog.get_logger(__name__)

_OPEN = Gauge("coxswain_models_circuits_open", "Upstreams, counted for each group, that are left alone after outages.")
_OPENINGS = from_the_start(
    Counter(
        "coxswain_models_circuit_openings_total",
        "How often an upstream was left alone, by provider and model.",
        ("provider", "model"),
    ),
    Provider,
    (OWN_MODELS,),
)
_CLOSINGS = from_the_start(
    Counter(
        "coxswain_models_circuit_closings_total",
        "How often an upstream that was left alone was used again, by provider and model.",
        ("provider", "model"),
    ),
    Provider,
    (OWN_MODELS,),
)


@dataclass(frozen=True, slots=True)
class UpstreamKey:
    """One group's use of one upstream: another group's key or address has no part in it."""

    group_id: str
    provider: str
    base_url: str
    """Empty means the provider's default address."""
    upstream_model: str
    """One address often serves models that fail independently."""
    counted_as: str = field(default=OWN_MODELS, compare=False)
    """See `Model`; of several models that one upstream serves, the one that was called."""


UpstreamCircuits = CircuitBreaker[UpstreamKey]
UpstreamTrial = Trial[UpstreamKey]


def upstream_circuits(
    *, threshold: int, pause: float, longest: float, clock: Callable[[], float] = time.monotonic
) -> UpstreamCircuits:
    """Return the circuits of all upstreams; see `CircuitBreaker`."""
    return CircuitBreaker(
        threshold=threshold, pause=pause, longest=longest, clock=clock, on_open=_opened, on_close=_closed
    )


@functools.cache
def begin_counts(provider: str, counted_as: str) -> None:
    """Have the counts of a model begin with 0."""
    _OPENINGS.labels(provider, counted_as)
    _CLOSINGS.labels(provider, counted_as)


def _opened(key: UpstreamKey, pause: float, was_closed: bool) -> None:
    if was_closed:
        _OPEN.inc()
    _OPENINGS.labels(key.provider, key.counted_as).inc()
    logger.warning(
        "upstream_left_alone", group_id=key.group_id, upstream_model=key.upstream_model, seconds=round(pause, 1)
    )


def _closed(key: UpstreamKey, forgotten: bool) -> None:
    _OPEN.dec()
    if not forgotten:
        _CLOSINGS.labels(key.provider, key.counted_as).inc()
        logger.info("upstream_used_again", group_id=key.group_id, upstream_model=key.upstream_model)
