"""Directories of worker hosts that start, live and die side by side."""

import multiprocessing
import os
import signal
from pathlib import Path

import psutil

from services.orchestrator.worker.host.crew_home import CrewHome
from tests.support.deep_directories import make_deep


def test_every_host_has_a_home_of_its_own_and_takes_it_along(tmp_path: Path) -> None:
    homes = [CrewHome(tmp_path / "crewai") for _ in range(3)]
    assert len({home.path for home in homes}) == 3
    assert all(home.path.is_dir() and home.path.stat().st_mode & 0o077 == 0 for home in homes)
    for home in homes:
        (home.path / "file").touch()
        home.remove()
    assert list((tmp_path / "crewai").iterdir()) == []


def test_what_killed_hosts_have_left_is_removed_and_what_living_ones_have_stays(tmp_path: Path) -> None:
    """Also what the release before has left, which had one home for all hosts."""
    (tmp_path / ".local" / "share").mkdir(parents=True)
    make_deep(tmp_path / ".local")
    (tmp_path / "note.txt").touch()
    mine = CrewHome(tmp_path)
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    pid = os.fork()
    if pid == 0:
        try:
            theirs.send(CrewHome(tmp_path).path)
            signal.pause()
        finally:
            os._exit(1)  # or the tests would go on here as well
    try:
        other: Path = ours.recv()
        third = CrewHome(tmp_path)
        third.remove_left()
        assert {mine.path, other, third.path, tmp_path / "note.txt"} == set(tmp_path.iterdir())
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert not psutil.pid_exists(pid)
    fourth = CrewHome(tmp_path)
    fourth.remove_left()
    assert {mine.path, third.path, fourth.path, tmp_path / "note.txt"} == set(tmp_path.iterdir())
