"""What the child processes of the suite get of its environment."""

from pathlib import Path

import pytest

from services.common.settings import CommonSettings
from services.suite.__main__ import _child_environment


def test_child_processes_leave_the_metrics_port_to_the_suite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COXSWAIN_METRICS_PORT", "9090")
    common = CommonSettings()
    environment = _child_environment(common, tmp_path, {"auth": "unix:internal.sock"})
    assert common.metrics_port == 9090
    monkeypatch.setenv("COXSWAIN_METRICS_PORT", environment["COXSWAIN_METRICS_PORT"])
    assert CommonSettings().metrics_port == 0
