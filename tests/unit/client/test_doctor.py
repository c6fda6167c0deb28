"""What `coxswain doctor` makes of what an installation says."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from coxswain.auth.v1.credential_pb2 import ExplainCredentialResponse
from coxswain.auth.v1.group_limits_pb2 import GetGroupLimitsResponse, GroupLimits
from coxswain.auth.v1.principal_pb2 import WhoAmIResponse
from coxswain.client.cli import doctor, encryption
from coxswain.client.cli.findings import FAIL, OK, WARN, Finding
from coxswain.client.cli.releases import check_releases
from coxswain.client.connection import Connection, Tls
from coxswain.client.errors import (
    CoxswainError,
    DeadlineExceeded,
    Internal,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from coxswain.client.version import VERSION
from coxswain.orchestrator.v1.execution_pb2 import (
    Execution,
    ListExecutionsRequest,
    ListExecutionsResponse,
    QueueReason,
    QueueStatus,
)
from coxswain.orchestrator.v1.worker_pb2 import ListWorkersResponse
from tests.support.certificates import issue_certificates

REASONS = {name.removeprefix("QUEUE_REASON_"): number for name, number in QueueReason.items()}


def waits(age: float, reason: str = "SLOTS_BUSY", **fields: Any) -> Execution:
    """An execution that was started so many seconds ago by this machine's clock and waits."""
    execution = Execution(queue=QueueStatus(reason=REASONS[reason]), **fields)
    execution.create_time.FromDatetime(datetime.now(UTC) - timedelta(seconds=age))
    return execution


def queue(*executions: Execution) -> list[Finding]:
    """What is found when executions wait."""

    def list_executions(request: ListExecutionsRequest) -> ListExecutionsResponse:
        until = request.max_create_time.ToDatetime(UTC) if request.HasField("max_create_time") else None
        chosen = [each for each in executions if until is None or each.create_time.ToDatetime(UTC) < until]
        return ListExecutionsResponse(executions=chosen)

    return list(doctor._queue(client(executions=SimpleNamespace(ListExecutions=list_executions))))


def client(**services: Any) -> Any:
    """A client that has only what a check asks."""
    return SimpleNamespace(**services)


def test_a_queue_is_judged_by_how_long_it_waits() -> None:
    assert [(found.status, found.text) for found in queue()] == [
        (OK, "0 executions of your group wait, none of them is known to wait for long")
    ]
    assert [found.status for found in queue(waits(1), waits(30))] == [OK]
    [found] = queue(waits(1), waits(90), waits(3600))
    assert (found.status, found.text) == (WARN, "2 executions of your group have waited for a slot for over 60 s")
    assert "COXSWAIN_WORKER_SLOTS" in found.remedy


def test_a_reason_to_wait_that_a_newer_server_has_ends_nothing() -> None:
    unknown = waits(90)
    unknown.queue.reason = cast("Any", 99)
    assert [found.status for found in queue(unknown)] == [OK]
    assert [found.status for found in queue(unknown, waits(90))] == [WARN]


@pytest.mark.parametrize(
    ("releases", "status", "text"),
    [
        (
            {"auth": VERSION, "models": VERSION},
            OK,
            f"this client and the processes of auth, models that answered are of release {VERSION}",
        ),
        (
            {"auth": "999.0.0", "models": "999.0.0"},
            OK,
            f"the release of auth, models is 999.0.0, this client's is {VERSION}",
        ),
        ({"auth": "999.0.0rc1"}, OK, f"the release of auth is 999.0.0rc1, this client's is {VERSION}"),
        (
            {"auth": "0.0.9", "models": "0.0.9"},
            WARN,
            f"the release of auth, models is 0.0.9, this client's is {VERSION}",
        ),
        ({"auth": ""}, WARN, f"the release of auth is unknown, this client's is {VERSION}"),
        (
            {"auth": VERSION, "models": "0.2.0"},
            WARN,
            f"processes are of different releases: auth {VERSION}, models 0.2.0",
        ),
    ],
)
def test_releases_that_do_not_fit_are_told(releases: dict[str, str], status: str, text: str) -> None:
    def release(service: str) -> str:
        package = service.split(".")[1]
        if package not in releases:
            raise NotFound("no such service")
        return releases[package]

    names = ["coxswain.auth.v1.AuthService", "coxswain.models.v1.ModelService", "coxswain.memory.v1.MemoryService"]
    [found] = check_releases(client(release=release), names)
    assert found.status == status
    assert found.text.startswith(text)
    assert bool(found.remedy) == (status != OK)


@pytest.mark.parametrize(
    ("hosts", "gateway", "statuses", "texts"),
    [
        (
            ["0.2.0"],
            "0.2.0",
            (OK, OK),
            (
                "3 worker hosts are alive, of release 0.2.0 as the orchestrator",
                "it serves, of release 0.2.0 as the orchestrator",
            ),
        ),
        (
            ["0.10.0", "0.2.0"],
            "0.1.0",
            (WARN, WARN),
            (
                "3 worker hosts are alive, of release 0.2.0, 0.10.0; the orchestrator is of 0.2.0",
                "it serves, of release 0.1.0; the orchestrator is of 0.2.0",
            ),
        ),
        (
            ["", "0.2.0"],
            "",
            (WARN, WARN),
            (
                "3 worker hosts are alive, of release unknown, 0.2.0; the orchestrator is of 0.2.0",
                "it serves, of release unknown; the orchestrator is of 0.2.0",
            ),
        ),
        # An orchestrator of an older release.
        (
            [],
            "",
            (OK, OK),
            (
                "3 worker hosts are alive; the orchestrator does not tell their release",
                "it serves; the orchestrator does not tell their release",
            ),
        ),
    ],
)
def test_hosts_and_a_gateway_of_another_release_than_the_orchestrator_are_told(
    hosts: list[str], gateway: str, statuses: tuple[str, str], texts: tuple[str, str]
) -> None:
    response = ListWorkersResponse(
        worker_count=3, worker_releases=hosts, tool_gateway_serving=True, tool_gateway_release=gateway
    )
    workers = SimpleNamespace(ListWorkers=lambda request: response)
    found = list(doctor._workers(client(workers=workers, release=lambda service: "0.2.0")))
    assert tuple(finding.status for finding in found) == statuses
    assert tuple(finding.text for finding in found) == texts
    assert [bool(finding.remedy) for finding in found] == [status != OK for status in statuses]


def test_a_gateway_that_does_not_say_its_release_is_told_also_while_no_host_is_alive() -> None:
    response = ListWorkersResponse(tool_gateway_serving=True)
    workers = SimpleNamespace(ListWorkers=lambda request: response)
    hosts, gateway = doctor._workers(client(workers=workers, release=lambda service: "0.2.0"))
    assert (hosts.status, gateway.status) == (FAIL, WARN)
    assert gateway.text == "it serves, of release unknown; the orchestrator is of 0.2.0"


@pytest.mark.parametrize("alive", [0, 3])
def test_hosts_are_looked_for_also_where_health_checks_are_not_routed(alive: int) -> None:
    def release(service: str) -> str:
        raise Unimplemented("unknown service grpc.health.v1.Health")

    response = ListWorkersResponse(worker_count=alive, worker_releases=["0.2.0"] * bool(alive))
    workers = SimpleNamespace(ListWorkers=lambda request: response)
    hosts, gateway = doctor._workers(client(workers=workers, release=release))
    assert (hosts.status, gateway.status) == (OK if alive else FAIL, WARN)
    known = "3 worker hosts are alive, of release 0.2.0; that of the orchestrator is not known here"
    assert hosts.text == (known if alive else "no worker host is alive: executions wait")


def test_each_reason_to_wait_has_a_remedy_of_its_own() -> None:
    reasons = [reason for reason in REASONS if reason != "UNSPECIFIED"]
    found = queue(*(waits(90, reason) for reason in reasons))
    assert len({finding.remedy for finding in found}) == len(reasons)
    [turn] = queue(waits(90, "TURN", concurrency_key="nightly"))
    assert (turn.text, "COXSWAIN_WORKER" in turn.remedy) == (
        "1 executions of your group have waited for their turn for over 60 s",
        False,
    )


def test_what_was_not_ready_from_its_start_does_not_wait_for_long() -> None:
    found = queue(waits(90, claims=1), waits(90, concurrency_key="nightly"), waits(90, "UNSPECIFIED"))
    assert [finding.status for finding in found] == [OK]


def clock(valid: float, newest: float | None = None) -> Finding:
    """What is found when the caller's principal is valid for so many seconds by this machine's clock."""
    caller = WhoAmIResponse()
    caller.principal.expire_time.FromDatetime(datetime.now(UTC) + timedelta(seconds=valid))
    listed = ListExecutionsResponse(executions=[] if newest is None else [waits(newest)])
    executions = SimpleNamespace(ListExecutions=lambda _: listed)
    [found] = doctor._clock(client(whoami=lambda: caller, executions=executions))
    return found


def test_a_clock_is_judged_by_what_answers_tell_of_the_servers() -> None:
    assert clock(420).text == "the clock of this machine is at least 120 s behind the server's"
    assert clock(240, -60).text == "the clock of this machine is at least 60 s behind the server's"
    assert clock(-90).text == "the clock of this machine is at least 90 s ahead of the server's"
    fine = clock(240, 5)
    assert (fine.status, fine.text) == (OK, "not checked to the second: it differs from the server's by 240 s at most")
    executions = SimpleNamespace(ListExecutions=lambda _: ListExecutionsResponse())
    [unknown] = doctor._clock(client(whoami=WhoAmIResponse, executions=executions))
    assert unknown.text.startswith("not checked")


def limits(found: GetGroupLimitsResponse) -> list[tuple[str, str]]:
    groups = SimpleNamespace(GetGroupLimits=lambda _: found)
    return [(finding.status, finding.text) for finding in doctor._limits(client(groups=groups))]


def test_limits_that_are_nearly_used_up_are_named() -> None:
    found = GetGroupLimitsResponse(
        effective=GroupLimits(max_members=10, max_secrets=10), used=GroupLimits(max_members=9, max_secrets=8)
    )
    assert limits(found) == [(WARN, "max_members: 9 of 10 are used"), (OK, "1 of 2 in force are not nearly used up")]
    found.used.max_members = 1
    assert limits(found) == [(OK, "2 of 2 in force are not nearly used up")]


def test_it_is_said_who_raises_a_limit() -> None:
    found = GetGroupLimitsResponse(
        effective=GroupLimits(max_members=0, max_secrets=0),
        lowered=GroupLimits(max_members=0, max_secrets=5),
        set=GroupLimits(max_members=9, max_secrets=0),
    )
    groups = SimpleNamespace(GetGroupLimits=lambda _: found)
    remedies = [finding.remedy for finding in doctor._limits(client(groups=groups)) if finding.status == WARN]
    assert ["admin of your group" in each for each in remedies] == [True, False]


def test_limits_that_allow_nothing_or_cannot_be_judged_are_named() -> None:
    found = GetGroupLimitsResponse(
        effective=GroupLimits(max_members=10, max_secrets=0, max_crews=5),
        used=GroupLimits(max_members=1, max_secrets=0),
    )
    assert limits(found) == [
        (WARN, "max_secrets is 0: it allows nothing"),
        (OK, "1 of 3 in force are not nearly used up; how much is used of max_crews cannot be seen from here"),
    ]


def test_a_credential_of_another_address_is_not_called_absent() -> None:
    elsewhere = ExplainCredentialResponse(resolvable=True, origin="https://models.example.com")
    found = doctor._missing_credential("llm/openai", elsewhere)
    assert found.text == "it belongs to https://models.example.com, and not to the address of a model that needs it"
    assert "coxswain secret put llm/openai --origin" in found.remedy
    assert doctor._missing_credential("llm/openai", ExplainCredentialResponse()).text == "there is none"


def test_a_check_that_may_not_be_made_is_a_warning() -> None:
    def check(_client: Any) -> Iterator[Finding]:
        yield Finding("workers", OK, "first")
        raise PermissionDenied("needs role operator")

    findings = list(doctor._guarded("workers", check, cast("Any", None)))
    assert [(found.status, found.text) for found in findings] == [
        (OK, "first"),
        (WARN, "not checked: needs role operator"),
    ]


def test_a_failure_that_nobody_knows_has_a_remedy() -> None:
    def check(error: CoxswainError) -> Finding:
        def fail(_client: Any) -> Iterator[Finding]:
            raise error

        [found] = doctor._guarded("workers", fail, cast("Any", None))
        return found

    assert "--token" in check(Unauthenticated("refused", reason="CREDENTIAL_REJECTED")).remedy
    assert "--timeout" in check(DeadlineExceeded("late")).remedy
    assert "r-1" in check(Internal("it failed", reason="INTERNAL", request_id="r-1")).remedy
    away = check(Unavailable("auth does not answer", reason="UNAVAILABLE", request_id="r-2"))
    assert ("coxswain up" in away.remedy, "r-2" in away.remedy) == (False, True)


@pytest.mark.parametrize(
    ("target", "endpoint"),
    [
        ("example.com", ("example.com", 443)),
        ("example.com:50051", ("example.com", 50051)),
        ("dns:example.com:50051", ("example.com", 50051)),
        ("dns:///example.com", ("example.com", 443)),
        ("dns://192.0.2.1/example.com:50051", ("example.com", 50051)),
        ("ipv4:192.0.2.1:50051,192.0.2.2:50051", ("192.0.2.1", 50051)),
        ("ipv6:[2001:db8::1]:50051", ("2001:db8::1", 50051)),
        ("[2001:db8::1]", ("2001:db8::1", 443)),
        ("unix:/run/coxswain.sock", None),
        ("xds:///coxswain", None),
        ("example.com:many", None),
    ],
)
def test_targets_are_read_as_grpc_reads_them(target: str, endpoint: tuple[str, int] | None) -> None:
    assert encryption._endpoint(target) == endpoint


def test_connections_are_judged_by_their_encryption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tls(address: str, **options: Any) -> Finding:
        [found] = encryption.check_encryption(Connection(address=address, **options))
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
        monkeypatch.setattr(encryption, "_RENEW_DAYS", 0)
        assert tls(address, tls=trusted).status == OK
        unknown = tls(address, tls=True)
        assert (unknown.status, unknown.remedy) == (FAIL, "give its authority with --ca-file")
        other = tls(address, tls=replace(trusted, server_name="other.example.com"))
        assert (other.status, other.remedy) == (FAIL, encryption._REMEDIES[62])
        garbled = tls(address, tls=Tls(root_certificates=b"not PEM"))
        assert (garbled.status, garbled.remedy) == (FAIL, "give a file in PEM with --ca-file")
    finally:
        server.stop(0).wait()
    assert tls(address, tls=trusted).status == FAIL
