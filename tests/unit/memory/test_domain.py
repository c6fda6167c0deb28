"""Ids, vectors and scopes of memory."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from services.memory.domain.digest import digest
from services.memory.domain.moments import microseconds, moment_of
from services.memory.domain.namespaces import NamespaceKey, derive_memory_id, stored_id_of
from services.memory.domain.records import MemoryKind
from services.memory.domain.scopes import ScopeRow, normalise_scope, summarise_children, summarise_scope, within_scope
from services.memory.domain.vectors import unit_vector

PARTS = st.text(alphabet="ab|/:\x00é", max_size=6)
KEYS = st.builds(NamespaceKey, PARTS, PARTS, st.sampled_from(MemoryKind))


@given(KEYS, PARTS, KEYS, PARTS)
def test_records_share_a_stored_id_only_when_group_crew_kind_and_client_id_are_equal(
    key: NamespaceKey, client_id: str, other: NamespaceKey, other_id: str
) -> None:
    assert (key.stored_id(client_id) == other.stored_id(other_id)) == ((key, client_id) == (other, other_id))
    assert (key.id == other.id) == (key == other)


@given(st.text(alphabet="ab", min_size=1, max_size=8), st.data())
def test_moving_a_character_between_parts_changes_the_stored_id(text: str, data: st.DataObject) -> None:
    cut, other = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))
    assume(cut != other)
    assert NamespaceKey(text[:cut], text[cut:], MemoryKind.UNIFIED).stored_id("x") != (
        NamespaceKey(text[:other], text[other:], MemoryKind.UNIFIED).stored_id("x")
    )


@given(KEYS, PARTS, st.sampled_from(["", "x" * 2000]))
def test_a_stored_id_is_the_digest_of_what_it_is_made_of(key: NamespaceKey, client_id: str, longer: str) -> None:
    key = replace(key, memory_id=key.memory_id + longer)
    expected = digest("record", key.group_id, key.kind.name, key.memory_id, client_id)
    assert key.stored_id(client_id) == key.stored_id(client_id) == expected
    assert stored_id_of(key.group_id, key.memory_id, key.kind, client_id) == expected


NAMES = st.lists(st.text(max_size=5), min_size=1, max_size=4)
CREW = {
    "group_id": "sales",
    "agent_roles": ["reader", "editor"],
    "task_names": ["extract", "edit"],
    "crew_name": "brief",
    "model": "offline/extract",
    "run_name": "",
}


@given(NAMES, NAMES, st.randoms())
def test_the_order_of_roles_and_tasks_does_not_change_the_memory_id(
    roles: list[str], tasks: list[str], random: object
) -> None:
    crew = CREW | {"agent_roles": roles, "task_names": tasks}
    reordered = CREW | {"agent_roles": roles[::-1], "task_names": tasks[1:] + tasks[:1]}
    assert derive_memory_id(**crew) == derive_memory_id(**reordered)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"group_id": "legal"},
        {"agent_roles": ["reader"]},
        {"agent_roles": ["reader", "editor", "editor"]},
        {"task_names": ["extract", "rewrite"]},
        {"crew_name": "briefs"},
        {"model": "other"},
        {"run_name": "tuesday"},
        {"agent_roles": ["reader", "editor", "2"], "task_names": ["extract"]},
    ],
)
def test_each_ingredient_changes_the_memory_id(change: dict[str, object]) -> None:
    assert derive_memory_id(**CREW) != derive_memory_id(**(CREW | change))  # type: ignore[arg-type]


@given(NAMES, NAMES)
def test_a_role_is_never_taken_for_a_task(roles: list[str], tasks: list[str]) -> None:
    assume(sorted(roles) != sorted(tasks))
    one = derive_memory_id(**(CREW | {"agent_roles": roles, "task_names": tasks}))  # type: ignore[arg-type]
    other = derive_memory_id(**(CREW | {"agent_roles": tasks, "task_names": roles}))  # type: ignore[arg-type]
    assert one != other


def test_the_memory_id_is_the_same_for_ever() -> None:
    assert derive_memory_id(**CREW) == "a83e261f3f7350b844f70f0236d7fe9c"  # type: ignore[arg-type]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=64))
def test_vectors_are_of_unit_length_in_the_same_direction(values: list[float]) -> None:
    assume(any(values))
    vector = unit_vector(values)
    assert vector.dtype == np.float32
    assert abs(float(np.linalg.norm(vector.astype(np.float64))) - 1.0) < 1e-5
    largest = int(np.argmax(np.abs(np.asarray(values))))
    assert np.sign(vector[largest]) == np.sign(values[largest])


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0], [[1.0, 2.0]]])
def test_vectors_without_a_direction_are_refused(values: list[object]) -> None:
    with pytest.raises(ValueError, match=r"component|direction"):
        unit_vector(values)  # type: ignore[arg-type]


@given(st.text(alphabet="/ab", max_size=12))
def test_scopes_are_normalised_once_and_for_all(path: str) -> None:
    scope = normalise_scope(path)
    assert scope.startswith("/")
    assert "//" not in scope
    assert scope == "/" or not scope.endswith("/")
    assert normalise_scope(scope) == scope


def test_a_scope_prefix_ends_at_a_slash() -> None:
    assert within_scope("/crew/a", "/crew")
    assert within_scope("/crew", "/crew")
    assert not within_scope("/crews", "/crew")
    assert within_scope("/anything", "/")


def test_figures_of_a_scope_hold_everything_below_it() -> None:
    early, late = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    rows = [
        ScopeRow("/crew/a", ("x",), 2, early, early),
        ScopeRow("/crew/b/c", ("y", "x"), 3, late, late),
        ScopeRow("/crewless", ("z",), 1, late, late),
    ]
    info = summarise_scope("/crew", rows)
    assert (info.record_count, info.categories, info.child_scopes) == (5, ["x", "y"], ["/crew/a", "/crew/b"])
    assert (info.oldest, info.newest) == (early, late)
    assert summarise_scope("/", rows).child_scopes == ["/crew", "/crewless"]
    assert summarise_scope("/nowhere", rows).record_count == 0


SCOPES = st.lists(st.sampled_from(["a", "b", "ab"]), max_size=4).map(lambda parts: "/" + "/".join(parts))


@given(st.lists(st.tuples(SCOPES, st.integers(1, 3)), max_size=12), SCOPES)
def test_the_children_of_a_scope_are_those_its_figures_name(counts: list[tuple[str, int]], parent: str) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [ScopeRow(scope, (), count, moment, moment) for scope, count in counts]
    children = summarise_children(parent, rows)
    assert [child.path for child in children] == summarise_scope(parent, rows).child_scopes
    assert children == [summarise_scope(child.path, rows) for child in children]


@given(st.datetimes(timezones=st.just(UTC)))
def test_microseconds_lose_nothing(moment: datetime) -> None:
    assert moment_of(microseconds(moment)) == moment
    assert microseconds(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=7)) == 7


def test_a_memory_with_a_name_has_its_own_id_in_each_group_whatever_crew_it_is_of() -> None:
    named = {derive_memory_id(**(CREW | change | {"memory_name": "m"})) for change in ({}, {"model": "x"})}  # type: ignore[arg-type]
    assert len(named) == 1
    others = [{"group_id": "other", "memory_name": "m"}, {"memory_name": "n"}, {}, {"crew_name": "m"}]
    assert named.isdisjoint(derive_memory_id(**(CREW | other)) for other in others)  # type: ignore[arg-type]
