"""10,000 attempts of one group at another, through every field that names something: none gets through.

Each is made with a value of the other group's and with one that never was, and nobody can tell the two apart. By
default some hundred of them are made; `make test-large` makes all, on every store that memories are kept in.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import new_database
from tests.e2e.tenants import stores
from tests.e2e.tenants.api import Outcome
from tests.e2e.tenants.attempts import Attempt, Attempts, Twins
from tests.e2e.tenants.judging import Judge
from tests.e2e.tenants.moves import Moves
from tests.e2e.tenants.references import public_rpcs, references_of, unclassified
from tests.e2e.tenants.requests import REQUESTS, UNENDING
from tests.e2e.tenants.same_names import mixed_up
from tests.e2e.tenants.stored import changed, rows_of
from tests.e2e.tenants.views import views_of
from tests.e2e.tenants.world import World, serve_world

SEED = 7
IN_EVERY_STORE, MOSTLY = 2_000, 4_500
"""Attempts on each of four stores, and on the fifth one, which all services share a database with."""
SETTLING_SECONDS = 30
"""For how long a read may still tell the two apart."""


def test_every_text_of_a_request_is_known_to_name_something_or_nothing() -> None:
    assert unclassified() == []
    assert set(REQUESTS) == set(public_rpcs())


def test_every_kind_of_thing_is_named_by_some_field() -> None:
    kinds = {reference.kind for method in public_rpcs().values() for reference in references_of(method)}
    assert {"execution_id", "page_token", "position", "request_id", "question_id", "index", "memory_id"} <= kinds


@contextlib.contextmanager
def _world(kind: str, directory: Path, new_url: Callable[[], str]) -> Iterator[World]:
    """Serve two groups whose memories are kept in a store; "postgresql" keeps everything else there as well."""
    if kind == "pgvector":
        store = stores.pgvector(new_url(), directory)
    else:
        store = {"databricks": stores.databricks, "chroma": stores.chroma}.get(kind, stores.embedded)()
    with store as used, serve_world(directory, used, new_url() if kind == "postgresql" else "") as world:
        yield world


def _attempt_all(
    kind: str, directory: Path, new_url: Callable[[], str], mixed: int, *, moves: int = 1, after_each: int = 20
) -> Mapping[str, int]:
    with _world(kind, directory, new_url) as world:
        twins = Twins(world.names, world.theirs)
        judge, seen = Judge(world, twins), views_of(world.theirs)
        said = len(world.installation.logs)
        generated = Attempts(world.ours, world.theirs, twins, SEED)
        faults: list[str] = []
        for attempt in itertools.chain(generated.each_once(), generated.mixed(mixed)):
            outcomes = _made(world, attempt)
            deadline = time.monotonic() + SETTLING_SECONDS
            # What ours has begun goes on meanwhile.
            while _reads(attempt) and not judge.alike(*outcomes) and time.monotonic() < deadline:
                faults += judge.faults_of(attempt, *outcomes)
                time.sleep(0.1)
                outcomes = _made(world, attempt)
            faults += judge.faults(attempt, *outcomes)
        faults += [f"logged: {found}" for found in judge.leaks([world.installation.logs[said:].encode()])]
        assert faults == []
        assert changed(world.before, rows_of(world.installation)) == {}
        assert views_of(world.theirs) == seen
        assert mixed_up(world) == []
        moved = Moves(world, twins, judge, SEED)
        assert list(moved.faults(moves, after_each)) == []
        assert (moved.made, moved.ended) == (moves * after_each, moves * len(UNENDING))
        # With each move an execution of theirs is started, whose calls of models are counted.
        after = changed(world.before, rows_of(world.installation))
        assert after.keys() <= {"models.usage_days", "models.call_counts"}, after
        assert judge.codes["OK"] > 100, judge.codes
        assert judge.codes["NOT_FOUND"] > 50, judge.codes
        return judge.codes


def _made(world: World, attempt: Attempt) -> tuple[Outcome, Outcome]:
    take = 1 if attempt.method in UNENDING else 0
    call = partial(world.ours.api.call, attempt.method, take=take)
    foreign = call(attempt.foreign, headers=attempt.foreign_headers)
    return foreign, call(attempt.twin, headers=attempt.twin_headers)


def _reads(attempt: Attempt) -> bool:
    return attempt.method.partition(".")[2].startswith(("Get", "List", "Query", "Watch", "Count", "Search", "Compare"))


@pytest.mark.timeout(400)
def test_nothing_of_another_group_can_be_reached(tmp_path: Path, postgres_server: str) -> None:
    _attempt_all("databricks", tmp_path, lambda: new_database(postgres_server), 0)


@pytest.mark.large
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_nothing_of_a_group_that_was_left_can_be_reached(tmp_path: Path, postgres_server: str, kind: str) -> None:
    """10,000 attempts through moves between groups and changes of role, with streams open meanwhile."""
    _attempt_all(kind, tmp_path, lambda: new_database(postgres_server), 0, moves=40, after_each=250)


@pytest.mark.large
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "chroma", "databricks", "pgvector"])
def test_nothing_of_another_group_can_be_reached_in_any_store(
    tmp_path: Path, postgres_server: str, kind: str, record_property: Callable[[str, object], None]
) -> None:
    mixed = MOSTLY if kind == "postgresql" else IN_EVERY_STORE
    codes = _attempt_all(kind, tmp_path, lambda: new_database(postgres_server), mixed)
    record_property("attempts", sum(codes.values()))
    record_property("codes", dict(codes))
