"""What `coxswain doctor` makes of what an installation says."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from coxswain.auth.v1.group_limits_pb2 import GetGroupLimitsResponse, GroupLimits
from coxswain.client.cli import doctor
from coxswain.client.cli.doctor import FAIL, OK, WARN, Finding
from coxswain.client.connection import Connection, Tls
from coxswain.client.errors import PermissionDenied
from coxswain.orchestrator.v1.execution_pb2 import Execution, ListExecutionsRequest, ListExecutionsResponse
from tests.support.certificates import issue_certificates


def queue(*ages: float) -> list[Finding]:
    """Return what is found when executions have waited for so many seconds by this machine's clock."""
    now = datetime.now(UTC)

    def list_executions(request: ListExecutionsRequest) -> ListExecutionsResponse:
        newest = now + timedelta(days=1)
        until = request.max_create_time.ToDatetime(UTC) if request.HasField("max_create_time") else newest
        listed = ListExecutionsResponse()
        for age in sorted(ages):
            created = now - timedelta(seconds=age)
            if created < until:
                execution = Execution()
                execution.create_time.FromDatetime(created)
                listed.executions.append(execution)
        return listed

    executions = SimpleNamespace(ListExecutions=list_executions)
    return list(doctor._queue(cast("Any", SimpleNamespace(executions=executions))))


def test_a_queue_is_judged_by_how_long_it_waits() -> None:
    assert [(found.status, found.text) for found in queue()] == [
        (OK, "0 executions of your group wait for a worker, none for long")
    ]
    assert [found.status for found in queue(1, 30)] == [OK]
    [found] = queue(1, 90, 3600)
    assert (found.status, found.text) == (WARN, "2 executions of your group have waited for a worker for over 60 s")
    assert "COXSWAIN_WORKER_SLOTS" in found.remedy


def test_a_clock_that_is_behind_the_servers_is_told() -> None:
    clock, waits = queue(-120, 5)
    assert (clock.check, clock.status, waits.status) == ("clock", WARN, OK)
    assert clock.text == "the clock of this machine is at least 120 s behind the server's"


def test_limits_that_are_nearly_used_up_are_named() -> None:
    limits = GetGroupLimitsResponse(
        effective=GroupLimits(max_members=10, max_secrets=10, max_crews=5),
        used=GroupLimits(max_members=9, max_secrets=8),
    )
    groups = SimpleNamespace(GetGroupLimits=lambda _: limits)
    [found] = doctor._limits(cast("Any", SimpleNamespace(groups=groups)))
    assert (found.status, found.text) == (WARN, "max_members: 9 of 10 are used")
    limits.used.max_members = 1
    [found] = doctor._limits(cast("Any", SimpleNamespace(groups=groups)))
    assert (found.status, found.text) == (OK, "3 are set for your group, none is nearly used up")


def test_a_check_that_may_not_be_made_is_a_warning() -> None:
    def check(_client: Any) -> Iterator[Finding]:
        yield Finding("workers", OK, "first")
        raise PermissionDenied("needs role operator")

    findings = list(doctor._guarded("workers", check, cast("Any", None)))
    assert [(found.status, found.text) for found in findings] == [
        (OK, "first"),
        (WARN, "not checked: needs role operator"),
    ]


def test_connections_are_judged_by_their_encryption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tls(address: str, **options: Any) -> Finding:
        [found] = doctor._encryption(Connection(address=address, **options))
        return found

    assert tls("127.0.0.1:50051").status == OK
    assert tls("unix:/run/coxswain.sock").status == OK
    assert tls("coxswain.example.com:50051").status == WARN

    files = issue_certificates(tmp_path / "tls")
    server = grpc.server(ThreadPoolExecutor(1))
    key, certificate = (Path(files[f"COXSWAIN_TLS_{name}_FILE"]).read_bytes() for name in ("KEY", "CERTIFICATE"))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    server.start()
    try:
        address, trusted = f"127.0.0.1:{port}", Tls(root_certificates=(tmp_path / "tls" / "ca.pem").read_bytes())
        soon = tls(address, tls=trusted)
        assert (soon.status, soon.remedy) == (WARN, "renew it; replaced files are read at once")
        monkeypatch.setattr(doctor, "_RENEW_DAYS", 0)
        assert tls(address, tls=trusted).status == OK
        unknown = tls(address, tls=True)
        assert (unknown.status, unknown.remedy) == (FAIL, "give its authority with --ca-file")
    finally:
        server.stop(0).wait()
    assert tls(address, tls=trusted).status == FAIL
