"""`make fuzz`: many odd calls of every method and odd HTTP/2, on SQLite and on PostgreSQL."""

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.calls import Caller, Tally, save
from tests.fuzz.http2 import ATTACKS, assault
from tests.fuzz.innocent import Innocent
from tests.fuzz.kept import Kept
from tests.fuzz.plans import METHODS, Plan, Planner
from tests.fuzz.target import FuzzedSuite, fuzzed_suite, not_given_back, settled

_AT_ONCE = 12
_WARM_SHARE = 5
_CALLS_OF_A_ROUND = 1_000
"""Calls for each of which every odd connection is made once."""
_ROUNDS_AT_ONCE = 5
"""Of more connections that reset all they begin, gRPC cancels calls of others, as deploy/README.md says."""
_FOUND = Path("build/fuzz")
_LONGEST_SECONDS = 10.0
_PROGRESS_SECONDS = 10.0


def main() -> int:
    """Fuzz as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeats the calls of an earlier run")
    parser.add_argument("--calls", type=int, default=100_000, help="calls in all, half on each database")
    parser.add_argument("--db", choices=["sqlite", "postgres", "both"], default="both")
    parser.add_argument("--methods", default="", help="only methods whose `Service.Method` contains this")
    parser.add_argument("--workers", type=int, default=1, help="worker hosts beside the API")
    parser.add_argument("--repeat", type=Path, help="a file that a finding names: makes this call alone")
    arguments = parser.parse_args()
    databases = ["sqlite", "postgres"] if arguments.db == "both" else [arguments.db]
    print(f"seed {arguments.seed}: {arguments.calls:,} calls on {' and '.join(databases)}", flush=True)
    found = 0
    for database in databases:
        with (
            tempfile.TemporaryDirectory(prefix="coxswain-fuzz-") as directory,
            _database(database) as url,
            fuzzed_suite(Path(directory), url, workers=arguments.workers) as suite,
        ):
            if arguments.repeat is not None:
                found += asyncio.run(_repeat(suite, Plan.load(arguments.repeat)))
            else:
                found += asyncio.run(_fuzz(suite, database, arguments, arguments.calls // len(databases)))
    print(f"{found} findings; seed {arguments.seed}", flush=True)
    return 1 if found else 0


async def _fuzz(suite: FuzzedSuite, database: str, arguments: argparse.Namespace, calls: int) -> int:
    kept = Kept()
    methods = [name for name in sorted(METHODS) if arguments.methods.lower() in name.lower()]
    planner = Planner(arguments.seed, kept, methods)
    caller = Caller(suite, kept, _LONGEST_SECONDS)
    progress = _Progress(database, calls)
    warm = calls // _WARM_SHARE
    rounds = 0 if arguments.methods else max(3, calls // _CALLS_OF_A_ROUND)
    warm_rounds = -(-rounds // _WARM_SHARE)
    await caller.all(map(planner.plan, range(warm)), _AT_ONCE, progress.show)
    # What gRPC once needed for odd connections stays, and is used again.
    failures = await _assault(suite, arguments.seed, range(warm_rounds))
    before = await settled(suite)
    await caller.all(map(planner.plan, range(warm, calls)), _AT_ONCE, progress.show)
    failures += await _assault(suite, arguments.seed, range(warm_rounds, rounds))
    more = await not_given_back(suite, before)
    after = await settled(suite)
    wrong = await caller.still_serves()
    await caller.close()
    tally = caller.tally
    never = [name for name in methods if not tally.succeeded[name]]
    print(
        f"{database}: {tally.calls:,} calls, slowest {tally.slowest:.1f} s, {dict(tally.codes.most_common())}\n"
        f"  never OK: {', '.join(never) or 'none'}\n"
        f"  held after {warm:,} calls: {before}\n  held at the end: {after}"
    )
    lines = save(tally.findings, _FOUND / database)
    lines += [f"in the log: {line}" for line in suite.logged_faults()]
    lines += [f"no longer serves: {wrong}"] if wrong else []
    lines += [f"an innocent call beside odd connections: {failure}" for failure in failures]
    lines += more
    for line in lines:
        print(f"FOUND on {database}: {line}", flush=True)
    return len(lines)


async def _assault(suite: FuzzedSuite, seed: int, rounds: range) -> list[str]:
    """Play odd connections, and return the failures of calls beside them."""
    address = suite.address("auth")
    async with Innocent(address) as innocent:
        for first in rounds[::_ROUNDS_AT_ONCE]:
            await assault(address, seed + first, min(_ROUNDS_AT_ONCE, rounds.stop - first))
            await innocent.call()
    connections = len(rounds) * len(ATTACKS)
    print(f"  {connections:,} odd connections, {innocent.calls:,} innocent calls beside them", flush=True)
    return innocent.failures


async def _repeat(suite: FuzzedSuite, plan: Plan) -> int:
    caller = Caller(suite, Kept(), _LONGEST_SECONDS)
    outcome = await caller.one(plan)
    await caller.close()
    print(f"{plan.method}: {outcome}")
    lines = [*map(str, caller.tally.findings), *suite.logged_faults()]
    print("\n".join(lines))
    return len(lines)


class _Progress:
    """Prints now and then how far it is."""

    def __init__(self, database: str, calls: int) -> None:
        self._database = database
        self._calls = calls
        self._told = 0
        self._started = self._shown = time.monotonic()

    def show(self, tally: Tally) -> None:
        for finding in tally.findings[self._told :]:
            print(f"  {finding}", flush=True)
        self._told = len(tally.findings)
        now = time.monotonic()
        if now - self._shown < _PROGRESS_SECONDS:
            return
        self._shown = now
        rate = tally.calls / (now - self._started)
        ok = tally.codes["OK"] / tally.calls
        print(
            f"  {self._database}: {tally.calls:,} of {self._calls:,} calls, {rate:.0f} a second, {ok:.0%} OK, "
            f"{len(tally.findings)} findings, slowest {tally.slowest:.1f} s",
            flush=True,
        )


@contextlib.contextmanager
def _database(kind: str) -> Iterator[str]:
    if kind == "sqlite":
        yield ""
        return
    from pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory(prefix="coxswain-pg-") as directory:
        server = get_server(directory)
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


if __name__ == "__main__":
    sys.exit(main())
