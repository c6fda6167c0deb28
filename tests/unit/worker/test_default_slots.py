"""A host has as many slots as its container has memory and processors for, unless somebody chose their number."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from services.orchestrator.worker.default_slots import default_slots
from services.orchestrator.worker.settings import WorkerSettings

GIB = 1 << 30
MANY = "6400000 100000\n"


def container(root: Path, files: Mapping[str, str]) -> Path:
    """Write what the kernel tells of a container's limits."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "slots"),
    [
        ({"memory.max": f"{3 * GIB}\n", "cpu.max": MANY}, 4),
        ({"memory.max": f"{16 * GIB}\n", "cpu.max": MANY}, 30),
        ({"memory.max": f"{16 * GIB}\n", "cpu.max": "50000 100000\n"}, 8),
        ({"memory.max": f"{16 * GIB}\n", "cpu.max": "1 100000\n"}, 1),
        ({"memory.max": f"{GIB // 4}\n", "cpu.max": MANY}, 1),
        ({"memory.max": f"{999 * GIB}\n", "cpu.max": MANY}, 256),
        ({"memory.max": "max\n", "cpu.max": MANY}, 4),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 4),
        (
            {
                "memory/memory.limit_in_bytes": f"{16 * GIB}\n",
                "cpu/cpu.cfs_quota_us": "100000\n",
                "cpu/cpu.cfs_period_us": "100000\n",
            },
            16,
        ),
        ({}, 4),
    ],
)
def test_slots_fit_the_container(tmp_path: Path, files: Mapping[str, str], slots: int) -> None:
    assert default_slots(512, 1, container(tmp_path, files)) == slots


def test_hosts_of_one_container_share_what_others_leave(tmp_path: Path) -> None:
    ample = container(tmp_path / "ample", {"memory.max": f"{16 * GIB}\n", "cpu.max": MANY})
    assert default_slots(512, 1, ample, hosts=2, others_mib=1024) == 13
    busy = container(tmp_path / "busy", {"memory.max": f"{16 * GIB}\n", "cpu.max": "50000 100000\n"})
    assert default_slots(512, 1, busy, hosts=2) == 4


def test_without_a_quota_each_processor_of_the_machine_counts(tmp_path: Path) -> None:
    files = {"memory.max": f"{999 * GIB}\n", "cpu.max": "max 100000\n"}
    assert default_slots(16, 1, container(tmp_path, files)) == min(256, 16 * len(os.sched_getaffinity(0)))


def test_a_number_that_was_chosen_counts() -> None:
    assert WorkerSettings(slots=7).slots == 7
    assert WorkerSettings().slots >= 1


@pytest.mark.parametrize(("lease", "heartbeat"), [(30, 7.5), (60, 7.5), (8, 2)])
def test_signs_of_life_follow_a_short_lease(lease: float, heartbeat: float) -> None:
    assert WorkerSettings(lease_seconds=lease).heartbeat_seconds == heartbeat


def test_a_heartbeat_that_was_chosen_has_to_fit_the_lease() -> None:
    assert WorkerSettings(lease_seconds=8, heartbeat_seconds=4).heartbeat_seconds == 4
    with pytest.raises(ValueError, match="at most half"):
        WorkerSettings(lease_seconds=8, heartbeat_seconds=7.5)
