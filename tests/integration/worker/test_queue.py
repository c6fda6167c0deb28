"""The queue hands out each segment once, keeps groups to their limit, and gives back what dead processes held."""

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from services.orchestrator.worker.queue.dbos_queue import SegmentQueue

WAIT_SECONDS = 30
Segments = list[tuple[str, int]]


class Player:
    """One process with a queue of segments."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.ran: Segments = []
        self._done: asyncio.Queue[Any] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            message = json.loads(line)
            if "ran" in message:
                self.ran.append(tuple(message["ran"]))
            else:
                self._done.put_nowait(message.get("done"))
            self._changed.set()

    async def do(self, name: str, segments: Segments | None = None, **arguments: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": name, "segments": segments or [], **arguments}).encode() + b"\n")
        return await asyncio.wait_for(self._done.get(), WAIT_SECONDS)

    async def ready(self) -> None:
        await asyncio.wait_for(self._done.get(), WAIT_SECONDS)

    async def has_run(self, *segments: tuple[str, int]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not set(segments) <= set(self.ran):
                self._changed.clear()
                await self._changed.wait()

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        self._reading.cancel()


class Players:
    """Processes that share a database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.all: list[Player] = []

    async def start(self, executor: str, slots: int = 4, group_limit: int = 4) -> Player:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.integration.worker.queue_process",
            self.url,
            executor,
            str(slots),
            str(group_limit),
            stdin=PIPE,
            stdout=PIPE,
        )
        player = Player(process)
        self.all.append(player)
        await player.ready()
        return player


@pytest.fixture
async def players(database_url: str) -> AsyncIterator[Players]:
    players = Players(database_url)
    yield players
    for player in players.all:
        await player.kill()


async def settled(player: Player, segments: Segments, states: list[str]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while await player.do("states", segments) != states:  # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.02)


async def test_segments_run_once_and_are_known_by_their_states(players: Players) -> None:
    player = await players.start("a")
    one, two = ("one", 1), ("two", 1)
    assert await player.do("states", [one]) == ["UNKNOWN"]
    for _ in range(3):
        await player.do("submit", [one, two], group="g")
    await player.has_run(one, two)
    assert await player.do("states", [one, two]) == ["HELD", "HELD"]
    assert await player.do("holds", [one, ("none", 1)]) == [True, False]
    assert await player.do("holders") == ["a"]
    await player.do("finish", [one])
    await player.do("fail", [two])
    await settled(player, [one, two], ["FINISHED", "FINISHED"])
    await player.do("submit", [one, two], group="g")
    # The next generation is a segment of its own.
    await player.do("submit", [("one", 2)], group="g")
    await player.has_run(("one", 2))
    assert sorted(player.ran) == [one, ("one", 2), two]
    assert await player.do("forget", before=time.time() + 60) == 2
    assert await player.do("states", [one, two]) == ["UNKNOWN", "UNKNOWN"]


async def test_a_group_gets_its_share_and_the_urgent_go_first(players: Players) -> None:
    player = await players.start("a", slots=3, group_limit=1)
    await player.do("submit", [("a1", 1)], group="a")
    await player.has_run(("a1", 1))
    await player.do("submit", [("a2", 1)], group="a", priority=5)
    await player.do("submit", [("a3", 1)], group="a", priority=1)
    await player.do("submit", [("b1", 1)], group="b")
    # Another group does not wait for the first one's.
    await player.has_run(("b1", 1))
    assert await player.do("states", [("a2", 1), ("a3", 1)]) == ["WAITING", "WAITING"]
    await player.do("finish", [("a1", 1)])
    await player.has_run(("a3", 1))
    assert ("a2", 1) not in player.ran
    await player.do("finish", [("a3", 1)])
    await player.has_run(("a2", 1))


async def test_what_a_dead_process_held_goes_to_another_and_nobody_elses(players: Players) -> None:
    dies = await players.start("dies", slots=1)
    await dies.do("submit", [("one", 1)], group="g")
    await dies.has_run(("one", 1))
    # DBOS keeps one number of slots for all: with the other's two it might take the second segment itself.
    await dies.do("stop_taking")
    lives = await players.start("lives", slots=2)
    await lives.do("submit", [("two", 1)], group="g")
    await lives.has_run(("two", 1))
    await dies.kill()
    assert await lives.do("holders") == ["dies", "lives"]
    await lives.do("recover", executors=["nobody"])
    assert await lives.do("states", [("one", 1)]) == ["HELD"]
    # Twice, as several hosts would.
    await lives.do("recover", executors=["dies"])
    await lives.do("recover", executors=["dies"])
    await lives.has_run(("one", 1))
    assert await lives.do("holders") == ["lives"]
    assert lives.ran == [("two", 1), ("one", 1)]


async def test_a_process_that_was_replaced_cannot_end_what_it_lost(players: Players) -> None:
    old = await players.start("old", slots=1)
    await old.do("submit", [("one", 1)], group="g")
    await old.has_run(("one", 1))
    new = await players.start("new", slots=1)
    await new.do("recover", executors=["old"])
    await new.has_run(("one", 1))
    assert await old.do("holds", [("one", 1)]) == [False]
    await old.do("finish", [("one", 1)])
    assert await new.do("states", [("one", 1)]) == ["HELD"]
    await new.do("finish", [("one", 1)])
    await settled(new, [("one", 1)], ["FINISHED"])


async def test_a_process_that_leaves_takes_nothing_more(players: Players) -> None:
    leaving = await players.start("leaving")
    await leaving.do("submit", [("one", 1)], group="g")
    await leaving.has_run(("one", 1))
    await leaving.do("stop_taking")
    staying = await players.start("staying")
    segments = [(f"later {number}", 1) for number in range(5)]
    await staying.do("submit", segments, group="h")
    await staying.has_run(*segments[:4])
    await staying.do("finish", segments[:4])
    await staying.has_run(segments[4])
    assert leaving.ran == [("one", 1)]


def test_a_queue_that_stands_still_in_a_transaction_keeps_nobody_waiting(postgres_url: str) -> None:
    queue = SegmentQueue(postgres_url, "x", slots=1, group_limit=1, poll_seconds=1)
    with queue._engine.connect() as connection:
        assert connection.scalar(text("SHOW idle_in_transaction_session_timeout")) == "20s"
    queue._engine.dispose()
