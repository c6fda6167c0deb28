"""What the child processes of the suite get of its environment."""

from pathlib import Path

import pytest

from services.common.settings import CommonSettings
from services.orchestrator.worker.settings import WorkerSettings
from services.suite.__main__ import _child_environment, _with_slots


def test_child_processes_leave_the_metrics_port_to_the_suite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COXSWAIN_METRICS_PORT", "9090")
    common = CommonSettings()
    environment = _child_environment(common, tmp_path, {"auth": "unix:internal.sock"})
    assert common.metrics_port == 9090
    monkeypatch.setenv("COXSWAIN_METRICS_PORT", environment["COXSWAIN_METRICS_PORT"])
    assert CommonSettings().metrics_port == 0


def test_worker_hosts_get_a_share_of_the_container_unless_slots_are_chosen() -> None:
    settings = WorkerSettings()
    for environment in ({}, {"COXSWAIN_WORKER_SLOTS": "0"}):
        assert int(_with_slots(environment, 2, settings)["COXSWAIN_WORKER_SLOTS"]) >= 1
    assert _with_slots({"COXSWAIN_WORKER_SLOTS": "7"}, 2, settings) == {"COXSWAIN_WORKER_SLOTS": "7"}
