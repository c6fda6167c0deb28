"""Calls and streams of groups are counted in one process as the operator allows them."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from services.common.clock import utc_now
from services.common.errors import ResourceExhausted, Unavailable
from services.common.grpc.group_traffic import Bucket, GroupTraffic, SharedTraffic, Traffic
from services.common.identity.group_limits import GroupLimits
from services.common.identity.principal import CredentialKind, Principal, Role


def ann(group_id: str = "sales", subject: str = "ann", **limits: Any) -> Principal:
    return Principal(
        subject=subject,
        group_id=group_id,
        role=Role.ADMIN,
        platform_admin=False,
        credential_kind=CredentialKind.USER,
        session_id="",
        execution_id="",
        expires_at=utc_now() + timedelta(hours=1),
        limits=GroupLimits(**limits),
    )


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Auth:
    """Answers what a test says, and notes what it is told."""

    def __init__(self, *answers: SharedTraffic) -> None:
        self.answers = list(answers)
        self.told: list[Traffic] = []
        self.sequences: list[int] = []

    async def share_traffic(
        self, _process_id: str, sequence: int, traffic: Sequence[Traffic]
    ) -> Sequence[SharedTraffic]:
        self.told += traffic
        self.sequences.append(sequence)
        if not self.answers:
            raise Unavailable("auth is away")
        return [self.answers.pop(0) for _ in traffic]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def traffic(clock: Clock) -> GroupTraffic:
    return GroupTraffic(clock=clock)


def calls_until_refused(traffic: GroupTraffic, principal: Principal) -> tuple[int, ResourceExhausted]:
    for count in range(10_000):
        try:
            traffic.count_call(principal)
        except ResourceExhausted as refusal:
            return count, refusal
    raise AssertionError("never refused")


@pytest.mark.parametrize(
    ("limits", "at_once", "wait"),
    [
        ({"calls_per_minute": 60}, 60, 1.0),
        ({"calls_per_minute": 60, "calls_burst": 5}, 5, 1.0),
        ({"calls_per_minute": 6, "calls_burst": 20}, 20, 10.0),
        ({"calls_per_minute": 0}, 0, None),
    ],
)
def test_so_many_calls_come_at_once_and_the_refusal_says_when_the_next_one_succeeds(
    traffic: GroupTraffic, clock: Clock, limits: dict[str, Any], at_once: int, wait: float | None
) -> None:
    count, refusal = calls_until_refused(traffic, ann(**limits))
    assert (count, refusal.reason, refusal.retry_after) == (at_once, "QUOTA_EXCEEDED", wait)
    assert refusal.metadata == {
        "quota": "calls_per_minute",
        "limit": str(limits["calls_per_minute"]),
        "used": str(at_once),
    }
    if wait is not None:
        clock.now += wait
        traffic.count_call(ann(**limits))
    with pytest.raises(ResourceExhausted):
        traffic.count_call(ann(**limits))


def test_some_calls_that_lift_limits_do_not_count(traffic: GroupTraffic, clock: Clock) -> None:
    limited = ann(calls_per_minute=1)
    calls_until_refused(traffic, limited)
    for _ in range(10):
        traffic.count_call(limited, lifts_limits=True)
    # They are no way around the limit, and cost other calls nothing.
    with pytest.raises(ResourceExhausted):
        traffic.count_call(limited, lifts_limits=True)
    clock.now += 60
    traffic.count_call(limited)
    for _ in range(10):
        traffic.count_call(limited, lifts_limits=True)


def test_the_calls_of_one_group_are_nothing_to_another(traffic: GroupTraffic) -> None:
    calls_until_refused(traffic, ann(calls_per_minute=1))
    traffic.count_call(ann("legal", calls_per_minute=1))
    for _ in range(100):
        traffic.count_call(ann("free"))
        traffic.count_call(ann("", calls_per_minute=0))


def test_a_limit_that_is_changed_counts_for_the_next_call(traffic: GroupTraffic, clock: Clock) -> None:
    calls_until_refused(traffic, ann(calls_per_minute=1))
    clock.now += 1
    assert calls_until_refused(traffic, ann(calls_per_minute=600))[0] == 10
    traffic.count_call(ann())


def test_nobody_waits_longer_than_a_minute_for_what_was_too_much() -> None:
    bucket = Bucket(-5000.0, 0.0)
    bucket.refill(GroupLimits(calls_per_minute=60), 1.0)
    assert bucket.left == -59


@pytest.mark.parametrize(
    ("limits", "quota", "other"),
    [
        ({"max_open_streams": 2}, "max_open_streams", "bob"),
        ({"max_open_streams_per_subject": 2}, "max_open_streams_per_subject", "ann"),
    ],
)
def test_streams_are_counted_while_they_are_open(
    traffic: GroupTraffic, limits: dict[str, Any], quota: str, other: str
) -> None:
    with traffic.stream_of(ann(**limits)):
        with traffic.stream_of(ann(**limits)):
            with pytest.raises(ResourceExhausted) as refusal, traffic.stream_of(ann(subject=other, **limits)):
                pass
            assert refusal.value.metadata == {"quota": quota, "limit": "2", "used": "2"}
            assert refusal.value.retry_after
            with traffic.stream_of(ann("legal", **limits)):
                pass
        with traffic.stream_of(ann(subject=other, **limits)):
            pass
    with pytest.raises(ResourceExhausted) as none_allowed, traffic.stream_of(ann(max_open_streams=0)):
        pass
    assert none_allowed.value.retry_after is None


async def test_what_others_have_used_is_not_left_any_more(traffic: GroupTraffic) -> None:
    limited = ann(calls_per_minute=60, max_open_streams=3)
    for _ in range(10):
        traffic.count_call(limited)
    auth = Auth(SharedTraffic(calls_left=20, other_streams=2))
    with traffic.stream_of(limited):
        await traffic.share(auth)
        assert auth.told == [Traffic("sales", 10, 1)]
        assert calls_until_refused(traffic, limited)[0] == 20
        with pytest.raises(ResourceExhausted), traffic.stream_of(limited):
            pass


async def test_auth_is_not_asked_where_nothing_is_new(traffic: GroupTraffic, clock: Clock) -> None:
    auth = Auth(SharedTraffic(60, 0), SharedTraffic(60, 0), SharedTraffic(60, 0))
    await traffic.share(auth)
    traffic.count_call(ann())
    with traffic.stream_of(ann()):
        await traffic.share(auth)
    assert auth.told == []
    with traffic.stream_of(ann(max_open_streams=1)):
        await traffic.share(auth)
        await traffic.share(auth)
        assert auth.told == [Traffic("sales", 0, 1)]
        # Others must not take it for gone.
        clock.now += 6
        await traffic.share(auth)
    await traffic.share(auth)
    await traffic.share(auth)
    assert auth.told[1:] == [Traffic("sales", 0, 1), Traffic("sales", 0, 0)]


async def test_what_had_no_answer_is_told_again_unchanged_as_auth_may_have_counted_it(traffic: GroupTraffic) -> None:
    limited = ann(calls_per_minute=60)
    traffic.count_call(limited)
    auth = Auth()
    with pytest.raises(Unavailable):
        await traffic.share(auth)
    traffic.count_call(limited)
    auth.answers += [SharedTraffic(50, 0), SharedTraffic(49, 0)]
    await traffic.share(auth)
    assert auth.told == [Traffic("sales", 1, 0), Traffic("sales", 1, 0), Traffic("sales", 1, 0)]
    assert auth.sequences == [1, 1, 2]
    assert calls_until_refused(traffic, limited)[0] == 49


async def test_streams_that_have_ended_elsewhere_refuse_none_for_long(traffic: GroupTraffic, clock: Clock) -> None:
    limited = ann(max_open_streams=10)
    auth = Auth(SharedTraffic(None, 10), SharedTraffic(None, 10), SharedTraffic(None, 0))
    with traffic.stream_of(limited):
        pass
    with traffic.stream_of(limited):
        await traffic.share(auth)
    # It learns of the ten when its own last one has ended.
    await traffic.share(auth)
    clock.now += 1
    with pytest.raises(ResourceExhausted), traffic.stream_of(limited):
        pass
    await traffic.share(auth)
    with traffic.stream_of(limited):
        pass
    assert len(auth.told) == 3


async def test_streams_elsewhere_are_asked_for_while_there_are_any(traffic: GroupTraffic, clock: Clock) -> None:
    auth = Auth(*(SharedTraffic(None, streams) for streams in (2, 2, 2, 0)))
    with traffic.stream_of(ann(max_open_streams=9)):
        await traffic.share(auth)
    await traffic.share(auth)
    for asked in (2, 3, 4, 4):
        await traffic.share(auth)
        assert len(auth.told) == asked
        clock.now += 6


async def test_a_limit_on_calls_that_is_set_later_begins_with_all_of_them(traffic: GroupTraffic) -> None:
    with traffic.stream_of(ann(max_open_streams=9)):
        await traffic.share(Auth(SharedTraffic(None, 0)))
    assert calls_until_refused(traffic, ann(calls_per_minute=60))[0] == 60


async def test_an_answer_without_a_limit_on_calls_leaves_them_as_they_are(traffic: GroupTraffic) -> None:
    limited = ann(calls_per_minute=60)
    traffic.count_call(limited)
    await traffic.share(Auth(SharedTraffic(None, 0)))
    assert calls_until_refused(traffic, limited)[0] == 59
