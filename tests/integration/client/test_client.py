"""Both clients over real gRPC: identity, deadlines, repetition, errors, sizes, and a watch that goes on."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2

from coxswain.auth.v1.delegation_pb2 import ExecutionIdentity, OnCredentialExpiry
from coxswain.auth.v1.principal_pb2 import WhoAmIRequest
from coxswain.client import (
    Aborted,
    AsyncClient,
    Client,
    CoxswainError,
    DeadlineExceeded,
    ExecutionNotSucceeded,
    InvalidArgument,
    NotFound,
    Tls,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from coxswain.memory.v1.memory_pb2 import ListNamespacesRequest
from coxswain.orchestrator.v1.crew_pb2 import AgentSpec, CrewSpec, GetCrewRequest, TaskSpec
from coxswain.orchestrator.v1.execution_pb2 import (
    ExecutionCancelled,
    ExecutionError,
    ExecutionEvent,
    ExecutionFailed,
    ExecutionSucceeded,
    LlmChunk,
    StartExecutionRequest,
    TaskOutput,
)
from tests.integration.client.installation import Installation, Relay, Server, reason, refuse

SPEC = CrewSpec(
    name="brief",
    agents=[AgentSpec(name="reader", role="Reader", goal="Read")],
    tasks=[TaskSpec(name="extract", description="Read", expected_output="Statements", agent="reader")],
)


class Both:
    """The two clients with one face, so that a test holds for both."""

    def __init__(self, kind: str, address: str, **options: Any) -> None:
        self.client: Client | AsyncClient = (AsyncClient if kind == "asyncio" else Client)(address, **options)

    async def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        """A method of the client, or ``stub.Method`` of one of its services."""
        method: Any = self.client
        for part in name.split("."):
            method = getattr(method, part)
        if isinstance(self.client, AsyncClient):
            return await method(*arguments, **options)
        return await asyncio.to_thread(method, *arguments, **options)

    async def watch(self, after: int = 0, **options: Any) -> AsyncGenerator[ExecutionEvent, None]:
        if isinstance(self.client, AsyncClient):
            async with aclosing(self.client.watch("e", after, **options)) as events:
                async for event in events:
                    yield event
            return
        blocking = self.client.watch("e", after, **options)

        def following() -> ExecutionEvent | None:
            return next(blocking, None)

        try:
            while one := await asyncio.to_thread(following):
                yield one
        finally:
            await asyncio.to_thread(blocking.close)

    async def close(self) -> None:
        if isinstance(self.client, AsyncClient):
            await self.client.close()
        else:
            self.client.close()


Connect = Callable[..., Both]


@pytest.fixture(params=["asyncio", "blocking"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    opened: list[Both] = []

    def connect(address: str, **options: Any) -> Both:
        opened.append(Both(request.param, address, **options))
        return opened[-1]

    yield connect
    for client in opened:
        await client.close()


def chunks(first: int, last: int) -> list[ExecutionEvent]:
    return [ExecutionEvent(sequence=number, llm_chunk=LlmChunk(text=str(number))) for number in range(first, last + 1)]


def success(sequence: int) -> ExecutionEvent:
    result = TaskOutput(text="done")
    return ExecutionEvent(sequence=sequence, execution_succeeded=ExecutionSucceeded(result=result))


def wait(event: threading.Event) -> None:
    assert event.wait(60)


def abort(code: grpc.StatusCode, message: str = "scripted") -> Callable[[Any], None]:
    return lambda context: context.abort(code, message)


async def test_calls_carry_identity_and_a_request_id(
    connect: Connect, server: Server, installation: Installation
) -> None:
    client = connect(server.address, token="dev:alice:sales=editor", group="sales")
    await client.call("whoami")
    sent = installation.metadata[0]
    assert sent["authorization"] == "Bearer dev:alice:sales=editor"
    assert sent["x-group-id"] == "sales"
    assert sent["x-request-id"]


async def test_an_execution_is_renewed_with_the_token_at_hand(
    connect: Connect, server: Server, installation: Installation
) -> None:
    client = connect(server.address, token="fresh")
    assert (await client.call("renew", "e")).id == "e"
    assert installation.requests[-1].id == "e"
    assert installation.metadata[-1]["authorization"] == "Bearer fresh"


async def test_unary_calls_have_a_deadline_that_can_be_chosen(
    connect: Connect, server: Server, installation: Installation
) -> None:
    client = connect(server.address, timeout=2000)
    await client.call("whoami")
    await client.call("auth.WhoAmI", WhoAmIRequest(), timeout=500)
    default, chosen = installation.deadlines
    assert default is not None
    assert chosen is not None
    assert 0 < chosen < 600 < default < 2100


async def test_a_deadline_that_passes_is_an_error_of_its_own(
    connect: Connect, server: Server, installation: Installation
) -> None:
    answered = threading.Event()
    installation.faults["WhoAmI"] = [lambda context: wait(answered)]
    with pytest.raises(DeadlineExceeded):
        await connect(server.address).call("auth.WhoAmI", WhoAmIRequest(), timeout=0.2)
    answered.set()


async def test_what_is_safe_to_repeat_is_repeated(connect: Connect, server: Server, installation: Installation) -> None:
    installation.crews["1"] = (await connect(server.address).call("apply_crew", SPEC)).crew
    installation.faults["GetCrew"] = [abort(grpc.StatusCode.UNAVAILABLE)] * 2
    assert (await connect(server.address).call("get_crew", "brief")).spec == SPEC


async def test_a_start_whose_answer_is_lost_is_one_execution(
    connect: Connect, server: Server, installation: Installation
) -> None:
    client = connect(server.address)
    await client.call("apply_crew", SPEC)
    installation.faults["StartExecution"] = [abort(grpc.StatusCode.UNAVAILABLE)] * 2
    execution = await client.call("start", "brief", {"text": "x" * 1_000_000})
    assert installation.calls["StartExecution"] == 3
    assert [stored.id for stored in installation.executions.values()] == [execution.id]


@pytest.mark.parametrize("method", ["start", "run"])
async def test_whom_an_execution_acts_as_is_chosen_when_it_starts(
    connect: Connect, server: Server, installation: Installation, method: str
) -> None:
    client = connect(server.address)
    await client.call("apply_crew", SPEC)
    installation.emit(ExecutionEvent(sequence=1, execution_succeeded=ExecutionSucceeded()))
    await client.call(method, "brief")
    chosen = {
        "identity": ExecutionIdentity.EXECUTION_IDENTITY_USER,
        "on_credential_expiry": OnCredentialExpiry.ON_CREDENTIAL_EXPIRY_USE_GROUP_IDENTITY,
    }
    await client.call(method, "brief", **chosen)
    plain, choosing = [request for request in installation.requests if isinstance(request, StartExecutionRequest)]
    assert (plain.identity, plain.on_credential_expiry) == (0, 0)
    assert (choosing.identity, choosing.on_credential_expiry) == tuple(chosen.values())


async def test_two_starts_are_two_executions_unless_they_share_a_request_id(
    connect: Connect, server: Server, installation: Installation
) -> None:
    client = connect(server.address)
    await client.call("apply_crew", SPEC)
    ids = [(await client.call("start", "brief", request_id=key)).id for key in ("", "", "mine", "mine")]
    assert len(set(ids)) == 3
    assert ids[2] == ids[3]


async def test_a_refusal_is_not_repeated_and_says_everything(
    connect: Connect, server: Server, installation: Installation
) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="name", description="is no name")
    installation.faults["GetCrew"] = [
        lambda context: refuse(
            context,
            grpc.StatusCode.INVALID_ARGUMENT,
            "bad request",
            reason("INVALID_FIELD"),
            error_details_pb2.BadRequest(field_violations=[violation]),
            error_details_pb2.RequestInfo(request_id="r-7"),
        )
    ]
    with pytest.raises(InvalidArgument) as caught:
        await connect(server.address).call("crews.GetCrew", GetCrewRequest(name="x"))
    error = caught.value
    assert (error.reason, error.request_id, error.violations[0].field) == ("INVALID_FIELD", "r-7", "name")
    assert installation.calls["GetCrew"] == 1


async def test_a_method_the_server_lacks_is_unimplemented(connect: Connect, server: Server) -> None:
    with pytest.raises(Unimplemented):
        await connect(server.address).call("memory.ListNamespaces", ListNamespacesRequest())


async def test_nobody_there_is_unavailable(connect: Connect) -> None:
    with pytest.raises(Unavailable):
        await connect("127.0.0.1:1").call("whoami")


async def test_messages_of_many_megabytes_pass_both_ways(
    connect: Connect, server: Server, installation: Installation
) -> None:
    spec = CrewSpec()
    spec.CopyFrom(SPEC)
    spec.description = "x" * 12_000_000
    applied = await connect(server.address).call("apply_crew", spec)
    assert applied.crew.spec == spec


async def test_applying_creates_then_updates_then_changes_nothing(connect: Connect, server: Server) -> None:
    client = connect(server.address)
    changed = CrewSpec()
    changed.CopyFrom(SPEC)
    changed.description = "other"
    applied = [await client.call("apply_crew", spec) for spec in (SPEC, changed, changed)]
    assert [(one.change, one.crew.revision) for one in applied] == [("created", 1), ("updated", 2), ("unchanged", 2)]


async def test_applying_never_overwrites_a_change_it_has_not_seen(
    connect: Connect, server: Server, installation: Installation
) -> None:
    client = connect(server.address)
    crew = (await client.call("apply_crew", SPEC)).crew

    def meanwhile(_: Any) -> None:
        installation.crews[crew.id].revision += 1

    installation.faults["UpdateCrew"] = [meanwhile]
    with pytest.raises(Aborted):
        await client.call("apply_crew", SPEC)


async def test_health_is_told_for_the_whole_and_for_each_service(connect: Connect, server: Server) -> None:
    client = connect(server.address)
    assert await client.call("healthy")
    with pytest.raises(NotFound):
        await client.call("healthy", "nobody")
    server.health.enter_graceful_shutdown()
    with pytest.raises(Unavailable, match="unhealthy"):
        # The channel may hear of it after the first calls.
        while not await client.call("healthy"):
            pass


async def test_calls_go_to_the_address_of_their_service(
    connect: Connect, server: Server, installation: Installation
) -> None:
    elsewhere = Installation()  # type: ignore[abstract]
    other = elsewhere.serve()
    try:
        client = connect(
            f"auth={other.address},memory={other.address},models={other.address},orchestrator={server.address}"
        )
        await client.call("auth.WhoAmI", WhoAmIRequest())
        started = await client.call("start", "0123456789abcdef", {})
        installation.emit(success(1))
        assert [event.sequence async for event in client.watch()] == [1]
        assert started.id == "e0"
        assert (set(elsewhere.calls), "WhoAmI" in installation.calls) == ({"WhoAmI"}, False)
        assert await client.call("healthy")
        other.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        # The channel may hear of it after the first calls.
        with pytest.raises(Unavailable, match="unhealthy"):
            while not await client.call("healthy"):
                pass
    finally:
        other.stop()


async def test_calls_go_in_turn_to_the_replicas_that_serve(
    connect: Connect, server: Server, installation: Installation
) -> None:
    replicas = [Installation(), Installation()]  # type: ignore[abstract]
    others = [replica.serve() for replica in replicas]
    others[1].health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    try:
        client = connect("ipv4:" + ",".join(each.address for each in (server, *others)))
        while not (installation.calls and replicas[0].calls):
            await client.call("auth.WhoAmI", WhoAmIRequest())
        assert not replicas[1].calls
    finally:
        for other in others:
            other.stop()


async def test_a_watch_shows_what_was_and_follows_until_the_end(
    connect: Connect, server: Server, installation: Installation
) -> None:
    installation.emit(*chunks(1, 3))
    seen = []
    async for event in connect(server.address).watch():
        seen.append(event.sequence)
        if event.sequence == 3:
            installation.emit(*chunks(4, 5), success(9))
    assert seen == [1, 2, 3, 4, 5, 9]
    # What grpc's blocking server says where a call has no deadline.
    assert installation.deadlines[0] is not None
    assert installation.deadlines[0] > 1e9


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param(abort(grpc.StatusCode.UNAVAILABLE), id="unavailable"),
        pytest.param(abort(grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"), id="reset"),
        pytest.param(abort(grpc.StatusCode.UNKNOWN, "Stream removed"), id="removed"),
        pytest.param(None, id="closed"),
    ],
)
async def test_a_watch_goes_on_behind_the_last_event_when_its_stream_breaks(
    connect: Connect, server: Server, installation: Installation, ending: Callable[[Any], None] | None
) -> None:
    installation.emit(*chunks(1, 6), success(7))
    installation.watch_breaks_after = [(2, ending), (0, ending), (3, ending)]
    assert [event.sequence async for event in connect(server.address).watch()] == [1, 2, 3, 4, 5, 6, 7]
    assert installation.watched_after == [0, 2, 2, 5]


async def test_a_watch_outlives_cut_connections(connect: Connect, relay: Relay, installation: Installation) -> None:
    installation.emit(*chunks(1, 1))
    seen = []
    async for event in connect(relay.address).watch():
        seen.append(event.sequence)
        if event.sequence % 3 == 1:
            await asyncio.to_thread(relay.cut)
        installation.emit(success(20) if event.sequence == 12 else chunks(event.sequence + 1, event.sequence + 1)[0])
    assert seen == [*range(1, 13), 20]
    assert relay.connections >= 5


async def test_a_watch_outlives_a_restart_of_the_server(connect: Connect, installation: Installation) -> None:
    server = installation.serve()
    client = connect(server.address)
    installation.emit(*chunks(1, 2))
    seen = []
    async for event in client.watch():
        seen.append(event.sequence)
        if event.sequence == 2:
            await asyncio.to_thread(server.stop)
            installation.emit(*chunks(3, 4), success(5))
            server = installation.serve(server.address)
    assert seen == [1, 2, 3, 4, 5]
    server.stop()


async def test_a_watch_that_begins_in_the_middle_shows_the_rest(
    connect: Connect, server: Server, installation: Installation
) -> None:
    installation.emit(*chunks(1, 4), success(5))
    client = connect(server.address)
    assert [event.sequence async for event in client.watch(3)] == [4, 5]
    assert [event.sequence async for event in client.watch(5)] == []


async def test_a_watch_that_is_refused_raises_at_once(
    connect: Connect, server: Server, installation: Installation
) -> None:
    installation.faults["WatchExecution"] = [
        lambda context: refuse(context, grpc.StatusCode.NOT_FOUND, "no such execution", reason("NOT_FOUND"))
    ]
    with pytest.raises(NotFound, match="no such execution"):
        [event async for event in connect(server.address).watch()]
    assert installation.calls["WatchExecution"] == 1


async def test_a_watch_without_a_server_gives_up_after_its_outage(connect: Connect) -> None:
    with pytest.raises(Unavailable):
        [event async for event in connect("127.0.0.1:1").watch(max_outage=0.2)]


async def test_a_watch_whose_credential_expires_goes_on_with_a_fresh_one(
    connect: Connect, server: Server, installation: Installation
) -> None:
    tokens: Iterator[str] = iter(["first", "second", "third"])
    installation.emit(*chunks(1, 2), success(3))
    installation.watch_breaks_after = [
        (1, lambda context: refuse(context, grpc.StatusCode.UNAUTHENTICATED, "expired", reason("CREDENTIAL_EXPIRED")))
    ]
    client = connect(server.address, token=lambda: next(tokens))
    assert [event.sequence async for event in client.watch()] == [1, 2, 3]
    assert [sent["authorization"] for sent in installation.metadata] == ["Bearer first", "Bearer second"]


async def test_a_fixed_credential_that_expires_ends_the_watch(
    connect: Connect, server: Server, installation: Installation
) -> None:
    installation.emit(*chunks(1, 2))
    installation.watch_breaks_after = [
        (1, lambda context: refuse(context, grpc.StatusCode.UNAUTHENTICATED, "expired", reason("CREDENTIAL_EXPIRED")))
    ]
    with pytest.raises(Unauthenticated):
        [event async for event in connect(server.address, token="t").watch()]


async def test_a_watch_that_is_left_ends_its_call(connect: Connect, server: Server, installation: Installation) -> None:
    installation.emit(*chunks(1, 1))
    left = threading.Event()
    installation.faults["WatchExecution"] = [lambda context: context.add_callback(left.set)]
    async with aclosing(connect(server.address).watch()) as events:
        async for _ in events:
            break
    assert await asyncio.to_thread(left.wait, 30)


async def test_a_run_returns_the_result(connect: Connect, server: Server, installation: Installation) -> None:
    installation.emit(*chunks(1, 2), success(3))
    execution = await connect(server.address).call("run", SPEC, {"text": "x"})
    assert execution.result.text == "done"


async def test_a_run_shows_its_events(connect: Connect, server: Server, installation: Installation) -> None:
    installation.emit(*chunks(1, 2), success(3))
    client = connect(server.address)
    seen: list[int] = []

    async def note(event: ExecutionEvent) -> None:
        seen.append(event.sequence)

    on_event: Any = note if isinstance(client.client, AsyncClient) else lambda event: seen.append(event.sequence)
    await client.call("run", SPEC, on_event=on_event)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (
            ExecutionEvent(
                sequence=1,
                execution_failed=ExecutionFailed(
                    error=ExecutionError(reason="TASK_FAILED", message="no answer", task_name="extract")
                ),
            ),
            "failed in task 'extract': no answer",
        ),
        (ExecutionEvent(sequence=1, execution_cancelled=ExecutionCancelled()), "cancelled"),
    ],
)
async def test_a_run_without_a_result_raises_with_the_execution(
    connect: Connect, server: Server, installation: Installation, event: ExecutionEvent, says: str
) -> None:
    installation.emit(event)
    with pytest.raises(ExecutionNotSucceeded, match=says) as caught:
        await connect(server.address).call("run", SPEC)
    assert caught.value.execution.id == "e"


async def test_an_unreadable_stream_is_no_endless_loop(
    connect: Connect, server: Server, installation: Installation
) -> None:
    installation.emit(*chunks(1, 1))
    installation.faults["WatchExecution"] = [abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max")]
    with pytest.raises(CoxswainError, match="larger than max"):
        [event async for event in connect(server.address).watch()]


async def test_tls_proves_the_server_and_the_client(
    connect: Connect, installation: Installation, tmp_path: Path
) -> None:
    authority, server_pair, client_pair = certificates()
    credentials = grpc.ssl_server_credentials([server_pair], authority, require_client_auth=True)
    server = installation.serve(credentials=credentials)
    tls = Tls(
        root_certificates=authority,
        private_key=client_pair[0],
        certificate_chain=client_pair[1],
        server_name="coxswain.example.com",
    )
    await connect(server.address, tls=tls, token="t").call("whoami")
    with pytest.raises(Unavailable):
        await connect(server.address, tls=Tls(root_certificates=authority)).call(
            "whoami",
        )
    with pytest.raises(Unavailable):
        await connect(server.address).call("whoami")
    server.stop()


def certificates() -> tuple[bytes, tuple[bytes, bytes], tuple[bytes, bytes]]:
    """An authority, and key and certificate of a server and of a client."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    def signed(name: str, issuer: str, key: Any, by: Any, *, authority: bool) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(by, hashes.SHA256())
        )

    def pem(key: Any) -> bytes:
        return bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    root, server, client = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    encoding = serialization.Encoding.PEM
    authority = signed("authority", "authority", root, root, authority=True).public_bytes(encoding)
    return (
        authority,
        (
            pem(server),
            signed("coxswain.example.com", "authority", server, root, authority=False).public_bytes(encoding),
        ),
        (pem(client), signed("client", "authority", client, root, authority=False).public_bytes(encoding)),
    )
