"""A short fuzz of every RPC and of HTTP/2 on both databases; `make fuzz` makes 100,000 calls, others each time."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import new_database
from tests.fuzz.calls import Caller, save
from tests.fuzz.http2 import ATTACKS, assault
from tests.fuzz.innocent import Innocent
from tests.fuzz.kept import Kept
from tests.fuzz.plans import METHODS, Plan, Planner
from tests.fuzz.target import FuzzedSuite, fuzzed_suite, not_given_back, settled

_SEED = 7
"""The same for every run: a change is not to fail by calls that have nothing to do with it."""
_AT_ONCE = 12
_CALLS_OF_A_METHOD = 4
# On a machine with other work a call may wait long for its turn; what hangs does so for longer.
_LONGEST_SECONDS = 60.0
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def suite(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FuzzedSuite]:
    sqlite = request.param == "sqlite"
    url = "" if sqlite else new_database(*map(request.getfixturevalue, ("postgres_server", "postgres_template")))
    with fuzzed_suite(tmp_path_factory.mktemp("fuzz"), url) as running:
        yield running


async def test_every_rpc_answers_odd_requests_with_a_proper_status(suite: FuzzedSuite, tmp_path: Path) -> None:
    kept = Kept()
    caller = Caller(suite, kept, _LONGEST_SECONDS)
    plans = map(Planner(_SEED, kept).plan, range(_CALLS_OF_A_METHOD * len(METHODS)))
    await caller.all(plans, _AT_ONCE)
    wrong = [*save(caller.tally.findings, tmp_path), *suite.logged_faults()]
    still = await caller.still_serves()
    await caller.close()
    assert (wrong, still) == ([], "")
    assert caller.tally.codes["OK"] > len(METHODS) // 4, caller.tally.codes


async def test_odd_connections_cost_nobody_else_a_call_and_leave_nothing(suite: FuzzedSuite) -> None:
    address = suite.address("auth")
    await assault(address, _SEED, rounds=1)
    before, logged = await settled(suite), suite.line_count
    async with Innocent(address) as innocent:
        await assault(address, _SEED + 1, rounds=3)
    assert (innocent.failures, suite.logged_faults(logged)) == ([], [])
    assert innocent.calls > 1
    assert await not_given_back(suite, before) == []


def test_a_call_is_made_again_from_its_seed_and_from_its_file(tmp_path: Path) -> None:
    first, second = (Planner(7, Kept()) for _ in range(2))
    for number in range(200):
        plan = first.plan(number)
        assert second.plan(number) == plan
        plan.save(tmp_path / "plan.json")
        assert Plan.load(tmp_path / "plan.json") == plan


def test_an_attack_is_made_again_from_its_seed() -> None:
    for attack in ATTACKS.values():
        assert list(attack(random.Random(3))) == list(attack(random.Random(3)))
