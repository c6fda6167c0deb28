"""Records found lately, followed over the versions of their namespace."""

from services.memory.domain.records import Record, Unified
from services.memory.stores.sql.recent_records import RecentRecords
from services.memory.stores.sql.recent_touches import RecentTouches


def _records(*names: str) -> dict[str, Record]:
    return {name: Record(name, Unified(f"text of {name}")) for name in names}


def test_what_was_changed_or_not_followed_is_forgotten() -> None:
    recent = RecentRecords(1 << 20)
    recent.put("n", 3, _records("a", "b"))
    assert set(recent.of("n", 3, ["a", "b", "c"])) == {"a", "b"}
    assert not recent.of("n", 4, ["a"])
    recent.follow("n", 3, 5, ["b"])
    assert set(recent.of("n", 5, ["a", "b"])) == {"a"}
    assert not recent.of("n", 3, ["a"])
    # A search that was under way comes late.
    recent.put("n", 3, _records("b"))
    assert not recent.of("n", 5, ["b"])
    recent.follow("n", 4, 7, [])
    assert set(recent.of("n", 5, ["a"])) == {"a"}
    recent.put("n", 9, _records("c"))
    assert set(recent.of("n", 9, ["a", "b", "c"])) == {"c"}
    assert not recent.of("other", 9, ["c"])


def test_records_found_lately_are_bounded() -> None:
    recent = RecentRecords(10_000)
    recent.put("n", 1, _records(*(f"r{n}" for n in range(50))))
    assert 0 < len(recent.of("n", 1, [f"r{n}" for n in range(50)])) < 10
    recent.put("n", 1, {"long": Record("long", Unified("x" * 10_000))})
    assert not recent.of("n", 1, ["long"])


def test_touches_are_known_by_version_as_long_as_they_are_few() -> None:
    touches = RecentTouches()
    touches.note("n", 4, ["a"])
    touches.note("n", 6, ["b"])
    touches.note("n", 7, [str(number) for number in range(101)])
    assert touches.since("n", 4) == {6: ["b"]}
    assert touches.since("other", 0) == {}
    for version in range(8, 48):
        touches.note("n", version, ["c"])
    assert min(touches.since("n", 0)) == 16
