"""No group keeps another one waiting, whatever starts and ends in which order on however many hosts."""

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.domain.admission import Waiting, group_limit_of, room_of

_GROUPS = "abcde"


@dataclass
class Hosts:
    """Hosts that take executions by the rule; the line is put together as the rows' is."""

    count: int
    slots: int
    reserved: int
    group_limit: int | None = None
    waiting: Counter[str] = field(default_factory=Counter)
    running: dict[int, list[str]] = field(default_factory=dict)

    def line(self) -> list[Waiting]:
        held = Counter(group for groups in self.running.values() for group in groups)
        places = [
            Waiting(group, held[group] + number)
            for group in self.waiting
            for number in range(1, self.waiting[group] + 1)
        ]
        return sorted(places, key=lambda waiting: waiting.place)

    def take(self, host: int) -> None:
        mine = self.running.setdefault(host, [])
        room = room_of(len(mine), self.slots, self.reserved, self.group_limit)
        for taken in room.admit(self.line()[: room.total]):
            self.waiting[taken.execution_id] -= 1
            mine.append(taken.execution_id)

    def take_all(self) -> None:
        for host in range(self.count):
            self.take(host)

    def held_by(self, group: str) -> int:
        return sum(groups.count(group) for groups in self.running.values())


@given(count=st.integers(1, 5), slots=st.integers(1, 6), backlog=st.integers(1, 60))
def test_a_lone_group_uses_every_slot_and_no_reserved_one(count: int, slots: int, backlog: int) -> None:
    hosts = Hosts(count, slots, reserved=1)
    hosts.waiting["a"] = backlog
    hosts.take_all()
    # One of its executions may stand on a reserved slot of nobody: it is the first of its group.
    assert hosts.held_by("a") == min(backlog, count * slots)


@given(count=st.integers(1, 5), slots=st.integers(1, 6), others=st.integers(1, 4))
def test_whoever_has_nothing_running_gets_a_reserved_slot_at_once(count: int, slots: int, others: int) -> None:
    hosts = Hosts(count, slots, reserved=1)
    hosts.waiting["a"] = 1000
    hosts.take_all()
    for group in _GROUPS[1 : others + 1]:
        hosts.waiting[group] = 1000
        hosts.take_all()
    assert all(hosts.held_by(group) == 1 for group in _GROUPS[1 : min(others, count) + 1])
    assert hosts.held_by("a") == count * slots


@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(_GROUPS), st.integers(0, 2), st.booleans()), max_size=60),
)
def test_a_group_with_more_never_goes_before_one_with_less(
    count: int, slots: int, steps: list[tuple[str, int, bool]]
) -> None:
    hosts = Hosts(count, slots, reserved=1)
    for group, host, ends in steps:
        if ends and hosts.running.get(host):
            hosts.running[host].pop(0)
        else:
            hosts.waiting[group] += 1
        before = {name: hosts.held_by(name) for name in _GROUPS}
        hosts.take(host % count)
        served = [name for name in _GROUPS if hosts.held_by(name) > before[name]]
        for name in served:
            starving = [other for other in _GROUPS if hosts.waiting[other] and hosts.held_by(other) < before[name]]
            assert starving == []
        assert len(hosts.running.get(host % count, [])) <= slots + 1


@given(st.integers(1, 10), st.integers(1, 3))
def test_the_limit_of_a_group_is_kept_by_all_hosts_together(limit: int, count: int) -> None:
    hosts = Hosts(count, slots=4, reserved=1, group_limit=limit)
    hosts.waiting["a"], hosts.waiting["b"] = 100, 1
    hosts.take_all()
    assert hosts.held_by("a") == min(limit, count * 4 - 1)
    assert hosts.held_by("b") == 1


@pytest.mark.parametrize(
    ("share", "slots", "at_most", "limit"),
    [
        (0.25, 40, None, 10),
        (0.25, 41, None, 11),
        (0.25, 1, None, 1),
        (0.01, 8, None, 1),
        (1.0, 8, 5, 5),
        (0.5, 8, 5, 4),
    ],
)
def test_a_groups_share_follows_the_slots_that_there_are(
    share: float, slots: int, at_most: int | None, limit: int
) -> None:
    assert group_limit_of(share, slots, at_most) == limit
