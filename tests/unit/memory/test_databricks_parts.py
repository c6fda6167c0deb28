"""Filters in the string language, and the memory of recent writes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidArgument
from services.memory.domain.filters import Comparison, Condition, Filter
from services.memory.domain.records import MemoryKind
from services.memory.stores.databricks import recent_writes
from services.memory.stores.databricks.descriptions import STANDARD
from services.memory.stores.databricks.endpoint_types import EndpointTypes, IndexShape, Location
from services.memory.stores.databricks.filter_language import Owner, handed_over, query_filter
from services.memory.stores.databricks.recent_writes import RecentWrites
from services.memory.stores.databricks.resources import WorkspaceResources

OWNER = Owner(MemoryKind.UNIFIED, "sales", "crew")
HERE = ("https://example.com", "main.memories.unified")


@given(st.text(), st.sampled_from([Comparison.EQUAL, Comparison.NOT_EQUAL, Comparison.LESS]))
def test_a_text_stands_in_a_filter_string_only_where_nothing_of_it_can_end_its_quotes(
    text: str, comparison: Comparison
) -> None:
    clauses = handed_over(OWNER, Filter((Condition("content", comparison, (text,)),))).clauses
    written = query_filter(clauses, storage_optimized=True)["filter_string"]
    assert written.startswith("group_id = 'sales' AND crew_id = 'crew'")
    # What is missing is unequal to everything here, and to nothing there.
    safe = comparison is not Comparison.NOT_EQUAL and not set(text) & set("'\"\\%\n\r\t;()`")
    assert ("content" in written) <= safe
    assert written.count("'") == (6 if "content" in written else 4)
    assert "\\" not in written


@pytest.mark.parametrize("group", ["o'brien", 'a"b', "a\\", "a\nb", "100%", "a;b", "a(b)", "a`b"])
def test_an_owner_that_cannot_be_quoted_is_refused_and_never_left_out(group: str) -> None:
    clauses = handed_over(Owner(MemoryKind.UNIFIED, group, "crew"), Filter()).clauses
    with pytest.raises(InvalidArgument, match="group_id"):
        query_filter(clauses, storage_optimized=True)


@pytest.mark.parametrize("bound", [float("inf"), float("-inf")])
def test_a_number_that_no_language_has_is_compared_here(bound: float) -> None:
    handed = handed_over(OWNER, Filter((Condition("importance", Comparison.LESS, (bound,)),), include_private=True))
    assert not handed.whole
    for optimized in (True, False):
        assert "importance" not in str(query_filter(handed.clauses, storage_optimized=optimized))


def test_recent_writes_tell_what_was_done_last_and_end_with_their_time() -> None:
    writes = RecentWrites(3600)
    writes.note(HERE, ["a", "b"], removed=False)
    writes.note(HERE, ["b"], removed=True)
    assert [writes.written(HERE, key) for key in "abc"] == [True, True, False]
    assert [writes.removed(HERE, key) for key in "abc"] == [False, True, False]
    writes.note(HERE, ["b"], removed=False)
    assert not writes.removed(HERE, "b")
    # Another group's index may have a row of the same key: nothing is said of it.
    assert not writes.written(("https://other.example.com", HERE[1]), "a")
    assert not writes.written((HERE[0], "main.memories.short_term"), "a")
    ended = RecentWrites(0)
    ended.note(HERE, ["a"], removed=True)
    assert not ended.written(HERE, "a")
    assert not ended.removed(HERE, "a")


def test_recent_writes_are_bounded_and_give_up_the_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_writes, "_MOST_KEYS", 3)
    writes = RecentWrites(3600)
    for key in "abcad":
        writes.note(HERE, [key], removed=False)
    assert [writes.written(HERE, key) for key in "abcd"] == [True, False, True, True]


async def test_what_a_search_learns_while_a_resource_goes_is_forgotten_with_it() -> None:
    location, shape = Location("https://example.com", "main"), ("https://example.com", "index")
    known = EndpointTypes()

    class Client:
        async def change(self, *_: object) -> None:
            known.learn(location, storage_optimized=True)
            known.learn_shape(shape, IndexShape(3))

        delete_index = delete_endpoint = create_endpoint = change

        async def get_endpoint(self, *_: object) -> str:
            return STANDARD

    client: Any = Client()
    resources = WorkspaceResources(client, location, known)
    await resources.delete_index(shape[1])
    assert known.shape(shape) is None
    for change in (resources.delete_endpoint(), resources.create_endpoint(storage_optimized=False)):
        await change
        assert await known.storage_optimized(location, client) is False
        known.forget(location)
