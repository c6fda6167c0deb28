"""What processes hold, to see that it comes back to its level."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
from sqlalchemy import create_engine, make_url, text

from tests.soak.replicas import Replicas

_MIB = 1 << 20
_MEMORY_SHARE = 1.5
_MEMORY_MORE = 48 * _MIB
_MORE = 24
"""Descriptors, threads and connections that may come and go."""


@dataclass(frozen=True)
class Level:
    """What one replica and all it has started hold."""

    memory: int
    """Resident bytes."""
    descriptors: int
    threads: int


def levels(replicas: Replicas) -> dict[str, Level]:
    """Return the level of each replica by its name."""
    return {place.name: _level(place.processes()) for place in replicas.places}


def connections(replicas: Replicas) -> int:
    """Return how many connections the database has."""
    engine = create_engine(make_url(replicas.postgres.get_uri()).set(drivername="postgresql+psycopg"))
    try:
        with engine.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM pg_stat_activity")).scalar_one())
    finally:
        engine.dispose()


def not_given_back(name: str, before: Level, after: Level) -> list[str]:
    """Return what a replica holds beyond its level."""
    found = []
    if after.memory > before.memory * _MEMORY_SHARE + _MEMORY_MORE:
        found.append(f"{name} holds {after.memory // _MIB} MiB, {before.memory // _MIB} before")
    found += [
        f"{name} holds {now} {what}, {then} before"
        for what, then, now in (
            ("descriptors", before.descriptors, after.descriptors),
            ("threads", before.threads, after.threads),
        )
        if now > then + _MORE
    ]
    return found


def _level(processes: Sequence[psutil.Process]) -> Level:
    memory = descriptors = threads = 0
    for process in processes:
        try:
            with process.oneshot():
                memory += process.memory_info().rss
                # Linux shows those of a process that keeps secrets to root alone.
                with contextlib.suppress(psutil.AccessDenied):
                    descriptors += process.num_fds()
                threads += process.num_threads()
        except psutil.NoSuchProcess:
            continue
    return Level(memory, descriptors, threads)
