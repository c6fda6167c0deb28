"""The calls and open streams of groups for which they are limited, counted together with other processes.

Each process counts for itself, and tells auth once a second, while such a group calls, how many calls there were; auth
answers with what is left to all processes. Between two answers a process knows of its own calls alone: so much may be
passed, and is made up for afterwards.
"""

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.common.errors import ResourceExhausted
from services.common.identity.group_limits import GroupLimits
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.common.quotas import how_to_raise, quota_exceeded

SHARE_SECONDS = 1.0
"""Seconds between two exchanges with auth."""
# Others take a process for gone that says nothing of its streams for longer: see `STREAMS_COUNT_SECONDS` of auth.
_REPEAT_SECONDS = 5.0
# What of a bucket has not been used for so long is full again, whatever auth remembers.
_FORGET_SECONDS = 300.0
_GROUPS_AT_ONCE = 1000
_STREAM_RETRY_SECONDS = 1.0
# Calls that change limits: enough to lift one, and no way around it.
_CHANGES = GroupLimits(calls_per_minute=10)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one process has seen of a group."""

    group_id: str
    calls: int
    """Since the last exchange."""
    open_streams: int


@dataclass(frozen=True, slots=True)
class SharedTraffic:
    """What all processes together have left for a group."""

    calls_left: float | None
    """Negative: as many calls have come too many. None: its calls are not limited."""
    other_streams: int
    """Streams that are open in other processes."""


class TrafficShare(Protocol):
    """Adds up the traffic of all processes; auth does it."""

    async def share_traffic(
        self, process_id: str, sequence: int, traffic: Sequence[Traffic]
    ) -> Sequence[SharedTraffic]:
        """Count the traffic of a process, and return what is left, in the same order.

        `sequence` rises from 1 with what a process tells. What has had no answer is told again with the same number:
        its calls count once.

        Raises:
            CoxswainError: auth cannot be asked.
        """
        ...


def burst_of(limits: GroupLimits) -> float:
    """Return how many calls may come at once after a pause."""
    return float((limits.calls_per_minute or 0) if limits.calls_burst is None else limits.calls_burst)


@dataclass(slots=True)
class Bucket:
    """Calls that are left: they come back at the pace of the limit, up to the burst."""

    left: float
    at: float
    """When as many were left, by the clock of whoever asks."""

    def refill(self, limits: GroupLimits, now: float) -> None:
        """Add what has come back until now."""
        burst, per_minute = burst_of(limits), limits.calls_per_minute or 0
        # Who has passed the limit waits a minute at most, however it came to it.
        self.left = min(burst, max(self.left, -float(per_minute)) + max(0.0, now - self.at) * per_minute / 60)
        self.at = now


@dataclass(slots=True)
class _Group:
    bucket: Bucket | None = None
    """None until a call is limited."""
    changes: Bucket | None = None
    """None until a limited group changes its limits."""
    used_at: float = -math.inf
    untold_calls: int = 0
    streams: int = 0
    other_streams: int = 0
    other_streams_doubted: bool = False
    """Whether a stream was refused on account of them."""
    told_streams: int = 0
    told_at: float = -math.inf
    subjects: Counter[str] = field(default_factory=Counter)


class GroupTraffic:
    """Counts for the listeners of one process."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._groups: dict[str, _Group] = {}
        self._process_id = new_id()
        self._sequence = 0
        self._unanswered: list[Traffic] = []

    def count_call(self, principal: Principal, *, lifts_limits: bool = False) -> None:
        """Count a call of a principal; a few of those that lift limits do not count.

        Raises:
            ResourceExhausted: QUOTA_EXCEEDED, its group has made as many as it may.
        """
        limits = principal.limits
        if limits.calls_per_minute is None or not principal.group_id:
            return
        group, now = self._group(principal), self._clock()
        if lifts_limits:
            changes = group.changes = group.changes or Bucket(burst_of(_CHANGES), now)
            changes.refill(_CHANGES, now)
            if changes.left >= 1:
                changes.left -= 1
                return
        bucket = group.bucket = group.bucket or Bucket(burst_of(limits), now)
        bucket.refill(limits, now)
        if bucket.left < 1:
            used = max(0, math.ceil(burst_of(limits) - bucket.left))
            # Nothing comes back where nothing is allowed.
            wait = (1 - bucket.left) * 60 / limits.calls_per_minute if limits.calls_per_minute else None
            raise quota_exceeded(
                "calls_per_minute",
                limits.calls_per_minute,
                used,
                f"your group may make {limits.calls_per_minute:,} calls in a minute; make fewer, or "
                f"{how_to_raise('calls_per_minute')}",
                retry_after=wait,
            )
        bucket.left -= 1
        group.untold_calls += 1

    @contextlib.contextmanager
    def stream_of(self, principal: Principal) -> Iterator[None]:
        """Count a stream of a principal while it is open.

        Raises:
            ResourceExhausted: QUOTA_EXCEEDED, its group or its subject has as many open as it may.
        """
        limits = principal.limits
        if not principal.group_id or (limits.max_open_streams is None and limits.max_open_streams_per_subject is None):
            yield
            return
        group, subject = self._group(principal), principal.subject
        try:
            _check_streams(
                "max_open_streams", limits.max_open_streams, group.streams + group.other_streams, "your group"
            )
        except ResourceExhausted:
            group.other_streams_doubted = bool(group.other_streams)
            raise
        _check_streams(
            "max_open_streams_per_subject",
            limits.max_open_streams_per_subject,
            group.subjects[subject],
            "one subject of your group",
        )
        group.streams += 1
        group.subjects[subject] += 1
        try:
            yield
        finally:
            group.streams -= 1
            group.subjects[subject] -= 1
            if not group.subjects[subject]:
                del group.subjects[subject]

    async def share(self, shared: TrafficShare) -> None:
        """Tell auth what is new, and learn what is left; nothing is asked where nothing is new.

        Raises:
            CoxswainError: auth cannot be asked; the same is told again the next time, as auth may have counted it.
        """
        if self._unanswered:
            await self._tell(shared)
        self._forget_idle()
        news = [group_id for group_id, group in self._groups.items() if self._has_news(group)]
        for start in range(0, len(news), _GROUPS_AT_ONCE):
            names = news[start : start + _GROUPS_AT_ONCE]
            self._sequence += 1
            self._unanswered = [
                Traffic(name, self._groups[name].untold_calls, self._groups[name].streams) for name in names
            ]
            await self._tell(shared)

    async def _tell(self, shared: TrafficShare) -> None:
        answers = await shared.share_traffic(self._process_id, self._sequence, self._unanswered)
        shared_traffic, self._unanswered = self._unanswered, []
        now = self._clock()
        for traffic, answer in zip(shared_traffic, answers, strict=True):
            group = self._groups[traffic.group_id]
            group.untold_calls -= traffic.calls
            group.told_streams, group.told_at = traffic.open_streams, now
            group.other_streams, group.other_streams_doubted = answer.other_streams, False
            if answer.calls_left is not None:
                # Calls that came while auth was asked are not in its answer.
                group.bucket = Bucket(answer.calls_left - group.untold_calls, now)

    def _has_news(self, group: _Group) -> bool:
        if group.untold_calls or group.other_streams_doubted or group.streams != group.told_streams:
            return True
        # Streams of other processes end without a word to this one.
        return bool(group.streams or group.other_streams) and self._clock() - group.told_at >= _REPEAT_SECONDS

    def _group(self, principal: Principal) -> _Group:
        group = self._groups.get(principal.group_id)
        if group is None:
            group = self._groups[principal.group_id] = _Group()
        group.used_at = self._clock()
        return group

    def _forget_idle(self) -> None:
        before = self._clock() - _FORGET_SECONDS
        idle = [
            group_id
            for group_id, group in self._groups.items()
            if group.used_at < before and not (group.streams or group.told_streams or group.untold_calls)
        ]
        for group_id in idle:
            del self._groups[group_id]


def _check_streams(quota: str, limit: int | None, used: int, whose: str) -> None:
    if limit is not None and used >= limit:
        raise quota_exceeded(
            quota,
            limit,
            used,
            f"{whose} may have {limit:,} streams open at the same time; end some, or {how_to_raise(quota)}",
            retry_after=_STREAM_RETRY_SECONDS if limit else None,
        )
