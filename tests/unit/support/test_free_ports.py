"""No two programs under test are given one port, though several processes of tests start them."""

import pytest

from tests.support import child_process


def test_processes_of_tests_share_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "3")
    given = list[int]()
    for number in range(3):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{number}")
        given += child_process._share_of_ports()
    assert len(given) == len(set(given)) == 12_000
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw4")
    assert set(child_process._share_of_ports()) <= set(given)


def test_ports_in_a_row_are_given_once_and_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = [4, 1, 2, 6, 3, 7, 5]
    monkeypatch.setattr(child_process, "_ports", ports)
    monkeypatch.setattr(child_process, "_untaken_ports", set(ports))
    monkeypatch.setattr(child_process, "_is_free", lambda port: port != 1)
    assert [child_process.free_port(), child_process.free_port(in_a_row=3), child_process.free_port()] == [4, 5, 2]
    with pytest.raises(AssertionError, match="every port was given away"):
        child_process.free_port(in_a_row=2)
