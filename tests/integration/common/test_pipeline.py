"""What every method of every service gets from the pipeline, shown on a few real methods with toy handlers."""

import asyncio
import contextlib
import gc
import json
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.protobuf.descriptor_database import DescriptorDatabase
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from coxswain.auth.v1 import auth_service_pb2_grpc, credential_pb2, delegation_pb2
from coxswain.memory.v1 import memory_pb2, memory_service_pb2_grpc, record_pb2
from coxswain.models.v1 import model_pb2, model_service_pb2_grpc
from coxswain.orchestrator.v1 import execution_pb2, execution_service_pb2_grpc
from services.common import audit_strangers, hosting
from services.common.audit import configure_audit, stop_audit
from services.common.clock import utc_now
from services.common.errors import NotFound, Unauthenticated, Unimplemented
from services.common.group_lines import GroupLines
from services.common.grpc.access import MethodAccess
from services.common.grpc.arrivals import Arrivals
from services.common.grpc.call import (
    BackgroundWork,
    acting_as,
    current_call,
    current_principal,
    enter_work,
    log_fields,
)
from services.common.grpc.capacity import AnonymousStreams, Capacity, Places
from services.common.grpc.group_traffic import SharedTraffic, Traffic
from services.common.grpc.method import Method
from services.common.grpc.pipeline import Pipeline
from services.common.hosting import Host
from services.common.identity.access_changes import AccessChange
from services.common.identity.authenticator import Credential
from services.common.identity.principal import CredentialKind, Principal, Role, subject_hash
from services.common.identity.principal_token import encode_principal
from services.common.ids import new_id
from services.common.settings import SERVICES, CommonSettings
from services.common.startup import StartError
from tests.support.exhausted import fault_of_exhausted
from tests.support.waiting import PATIENCE, longer, until

ROOM = Capacity.of(calls=100, group_calls=100, streams=100, group_streams=100, subject_streams=100)


class ToyIdentity:
    """Knows bearers "<subject>:<role>" in the group "g" and can forget one."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.removed: set[str] = set()
        self.exchanges = 0
        self.changes: list[AccessChange] = []

    async def exchange(self, credential: Credential, group_id: str) -> Principal:
        self.exchanges += 1
        subject, _, role = credential.authorization.removeprefix("Bearer ").partition(":")
        if not role or subject in self.removed:
            raise Unauthenticated("who are you?", reason="CREDENTIAL_REJECTED")
        principal = Principal(
            subject=subject,
            group_id=group_id or "g",
            role=Role[role],
            platform_admin=False,
            credential_kind=CredentialKind.DEV,
            session_id="",
            execution_id="",
            expires_at=utc_now() + timedelta(minutes=5),
        )
        return replace(principal, token=self.sign(principal))

    def sign(self, principal: Principal) -> str:
        return encode_principal(principal, self.key, "k1")

    async def public_keys(self) -> Mapping[str, Ed25519PublicKey]:
        return {"k1": self.key.public_key()}

    async def share_traffic(
        self, process_id: str, sequence: int, traffic: Sequence[Traffic]
    ) -> Sequence[SharedTraffic]:
        return []

    def on_changed_limits(self, act: Callable[[str], None]) -> None:
        self.forget = act

    async def access_changes(self, since: float) -> list[AccessChange]:
        return self.changes


class ToyService(
    model_service_pb2_grpc.ModelServiceServicer,
    auth_service_pb2_grpc.AuthServiceServicer,
    execution_service_pb2_grpc.ExecutionServiceServicer,
    memory_service_pb2_grpc.MemoryServiceServicer,
):
    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.watch_ended = asyncio.Event()
        self.delete_ended = asyncio.Event()
        self.import_ended = asyncio.Event()
        self.listing = Counter[str]()
        self.begun = Counter[str]()

    def register(self, registry: Any) -> None:
        registry.add(model_service_pb2_grpc.add_ModelServiceServicer_to_server, self)
        registry.add(auth_service_pb2_grpc.add_AuthServiceServicer_to_server, self)
        registry.add(execution_service_pb2_grpc.add_ExecutionServiceServicer_to_server, self)
        registry.add(memory_service_pb2_grpc.add_MemoryServiceServicer_to_server, self)

    async def start(self) -> None: ...

    async def drain(self) -> None: ...

    async def close(self) -> None: ...

    async def GetModel(self, request: Any, context: Any) -> model_pb2.GetModelResponse:
        if request.name == "missing":
            raise NotFound.of("model", request.name)
        if request.name == "broken":
            raise RuntimeError("the password is hunter2")
        if request.name == "half an emoji":
            raise NotFound("there is no \ud83d")
        if request.name == "endless":
            raise NotFound("there is none", retry_after=float("inf"))
        if request.name == "waits":
            self.begun[current_principal().group_id] += 1
            await self.gate.wait()
        if request.name == "later":
            raise Unimplemented("there are no models of tomorrow")
        if request.name == "deadline":
            left = current_call().time_remaining()
            return model_pb2.GetModelResponse(model=model_pb2.Model(name="none" if left is None else "some"))
        principal = current_principal()
        return model_pb2.GetModelResponse(
            model=model_pb2.Model(
                name=f"{principal.subject}/{principal.group_id}", description=current_call().request_id
            )
        )

    async def ListModels(self, request: Any, context: Any) -> model_pb2.ListModelsResponse:
        group = current_principal().group_id
        self.listing[group] += 1
        try:
            await self.gate.wait()
        finally:
            self.listing[group] -= 1
        return model_pb2.ListModelsResponse()

    async def DeleteModel(self, request: Any, context: Any) -> model_pb2.DeleteModelResponse:
        if request.name == "waits":
            self.begun["deletions"] += 1
            try:
                await self.gate.wait()
            finally:
                self.delete_ended.set()
        return model_pb2.DeleteModelResponse()

    async def RevokeDelegation(self, request: Any, context: Any) -> delegation_pb2.RevokeDelegationResponse:
        return delegation_pb2.RevokeDelegationResponse()

    async def ResolveCredential(self, request: Any, context: Any) -> credential_pb2.ResolveCredentialResponse:
        return credential_pb2.ResolveCredentialResponse(token=current_principal().subject, link=current_call().service)

    async def WatchExecution(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.begun["watches"] += 1
        try:
            yield execution_pb2.WatchExecutionResponse(event=execution_pb2.ExecutionEvent(sequence=1))
            await self.gate.wait()
        finally:
            self.watch_ended.set()

    async def ImportRecords(self, requests: Any, context: Any) -> AsyncIterator[memory_pb2.ImportRecordsResponse]:
        created = 0
        try:
            async for request in requests:
                created += len(request.records)
                yield memory_pb2.ImportRecordsResponse(created=created)
        finally:
            self.import_ended.set()


def make_toy() -> ToyService:
    # Methods the toy leaves out are never called here.
    return ToyService()  # type: ignore[abstract]


class Served:
    def __init__(self, host: Host, port: int, toy: ToyService, identity: ToyIdentity) -> None:
        self.host, self.port, self.toy, self.identity = host, port, toy, identity
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self.auth = auth_service_pb2_grpc.AuthServiceStub(self.channel)
        self.executions = execution_service_pb2_grpc.ExecutionServiceStub(self.channel)
        self.memory = memory_service_pb2_grpc.MemoryServiceStub(self.channel)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(tmp_path) as served:
        yield served


@contextlib.asynccontextmanager
async def serve(data_dir: Path, **settings: Any) -> AsyncIterator[Served]:
    with tempfile.TemporaryDirectory(prefix="coxswain-") as run_dir:
        socket = f"unix:{run_dir}/s"
        common = CommonSettings(data_dir=data_dir, drain_seconds=0, **settings)
        host = ToyHost(common, dict.fromkeys(SERVICES, socket))
        toy = await host.add("models", lambda _settings, _runtime: make_toy(), None)
        identity = ToyIdentity()
        port, _ = await host.open(public_address="127.0.0.1:0", internal_address=socket, identity=identity)
        served = Served(host, port, toy, identity)
        try:
            yield served
        finally:
            await served.channel.close()
            await host.close(0)


class ToyHost(Host):
    """The toy has no tables, so nothing to migrate."""

    async def runtime(self, name: str, *, migrate: bool = False) -> Any:
        return await super().runtime(name, migrate=False)


def bearer(text: str, **more: str) -> Any:
    return (("authorization", f"Bearer {text}"), *((k.replace("_", "-"), v) for k, v in more.items()))


async def refused(call: Any) -> tuple[grpc.StatusCode, str, list[tuple[str, str]], str]:
    """Return code, reason, violations and request id of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return explain(caught.value)


def explain(error: grpc.aio.AioRpcError) -> tuple[grpc.StatusCode, str, list[tuple[str, str]], str]:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None, f"no details in {error}"
    assert not fault_of_exhausted(status)
    info, bad, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RequestInfo()
    for detail in status.details:
        for message in (info, bad, request):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    assert info.domain == "coxswain"
    return error.code(), info.reason, [(v.field, v.description) for v in bad.field_violations], request.request_id


async def test_a_verified_caller_reaches_the_handler_with_group_and_request_id(served: Served) -> None:
    response = await served.models.GetModel(
        model_pb2.GetModelRequest(name="m"),
        metadata=bearer("ann:OPERATOR", x_group_id="sales", x_request_id="r-1"),
    )
    assert response.model.name == "ann/sales"
    assert response.model.description == "r-1"


async def test_a_credential_is_exchanged_once_for_many_calls_at_once(served: Served) -> None:
    request = model_pb2.GetModelRequest(name="m")
    await asyncio.gather(*(served.models.GetModel(request, metadata=bearer("ann:OPERATOR")) for _ in range(50)))
    assert served.identity.exchanges == 1


async def test_as_many_calls_may_come_at_once_as_a_listener_works_on(served: Served) -> None:
    # By itself, gRPC cancels some of those that wait behind a thousand others, at random and without a word.
    request = model_pb2.GetModelRequest(name="m")
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{served.port}", options=[("grpc.use_local_subchannel_pool", 1)]
    ) as second:
        stubs = (served.models, model_service_pb2_grpc.ModelServiceStub(second))
        calls = (stub.GetModel(request, metadata=bearer("ann:OPERATOR")) for stub in stubs for _ in range(1000))
        assert len(await asyncio.gather(*calls)) == 2000


def _listed_by(served: Served, group: str) -> Any:
    return served.models.ListModels(model_pb2.ListModelsRequest(), metadata=bearer("ann:OPERATOR", x_group_id=group))


async def test_of_calls_that_take_turns_two_of_a_group_go_on_and_others_wait_for_none_of_the_rest(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.common.grpc.pipeline._LONGEST_TURN_SECONDS", 3600.0)
    loud = [_listed_by(served, "loud") for _ in range(20)]
    await until(lambda: served.toy.listing["loud"] == 2)
    given_up, *loud = loud
    quiet = _listed_by(served, "quiet")
    await until(lambda: served.toy.listing["quiet"] == 1)
    # Those that wait hold up none that takes no turns, and one that is given up gives its turn back.
    model = model_pb2.GetModelRequest(name="m")
    await served.models.GetModel(model, metadata=bearer("ann:OPERATOR", x_group_id="loud"))
    assert served.toy.listing == {"loud": 2, "quiet": 1}
    given_up.cancel()
    served.toy.gate.set()
    await asyncio.gather(quiet, *loud)
    assert served.toy.listing == {"loud": 0, "quiet": 0}


@pytest.fixture
def taking(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return how many calls of each group have asked for a turn; what holds one keeps it until it ends."""
    asked = Counter[str]()

    class Lines(GroupLines):
        def turn(self, group_id: str, *args: Any, **more: Any) -> Any:
            asked[group_id] += 1
            return super().turn(group_id, *args, **more)

    monkeypatch.setattr("services.common.grpc.pipeline.GroupLines", Lines)
    monkeypatch.setattr("services.common.grpc.pipeline._LONGEST_TURN_SECONDS", 3600.0)
    return asked


def _waiting_of(served: Served, group: str, **more: Any) -> Any:
    request = model_pb2.GetModelRequest(name="waits")
    return served.models.GetModel(request, metadata=bearer("ann:OPERATOR", x_group_id=group), **more)


async def test_a_call_waits_for_none_of_500_of_another_group_that_wait_before_it(
    taking: Counter[str], served: Served
) -> None:
    loud = [_waiting_of(served, "loud") for _ in range(500)]
    await until(lambda: taking["loud"] == 500)
    assert served.toy.begun["loud"] == 8
    await served.models.GetModel(
        model_pb2.GetModelRequest(name="m"), metadata=bearer("ann:OPERATOR", x_group_id="quiet")
    )
    assert served.toy.begun["loud"] == 8
    served.toy.gate.set()
    await asyncio.gather(*loud)
    assert served.toy.begun["loud"] == 500


async def test_who_gives_up_while_they_wait_for_a_turn_takes_none_along(taking: Counter[str], served: Served) -> None:
    first = [_waiting_of(served, "loud") for _ in range(8)]
    await until(lambda: served.toy.begun["loud"] == 8)
    late = await _waiting_with_a_deadline(taking, served)
    asked = taking["loud"]
    cancelled = [_waiting_of(served, "loud") for _ in range(20)]
    await until(lambda: taking["loud"] >= asked + 20)
    for call in [*cancelled, *first[:4]]:
        call.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await late
    assert refusal.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    served.toy.gate.set()
    await asyncio.gather(*first[4:])
    served.toy.gate.clear()
    served.toy.begun.clear()
    asked = taking["loud"]
    more = [_waiting_of(served, "loud") for _ in range(20)]
    await until(lambda: taking["loud"] >= asked + 20 and served.toy.begun["loud"] == 8)
    served.toy.gate.set()
    await asyncio.gather(*more)


async def _waiting_with_a_deadline(taking: Counter[str], served: Served) -> Any:
    """Return a call that waits for its turn, and soon is given up; a busy machine may need longer to take it in."""
    times = longer(0.3)
    while True:
        asked = taking["loud"]
        call = _waiting_of(served, "loud", timeout=next(times))
        await until(lambda: call.done() or taking["loud"] > asked)  # noqa: B023 - of this turn, which waits for it
        if not call.done():
            return call
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_stream_takes_a_turn_for_its_first_response_and_none_for_the_next(
    taking: Counter[str], served: Served
) -> None:
    loud = bearer("ann:OPERATOR", x_group_id="loud")
    imported = served.memory.ImportRecords(metadata=loud)
    await imported.write(memory_pb2.ImportRecordsRequest())
    assert await imported.read() is not grpc.aio.EOF
    waiting = [_waiting_of(served, "loud") for _ in range(8)]
    await until(lambda: served.toy.begun["loud"] == 8)
    await imported.write(memory_pb2.ImportRecordsRequest())
    assert await imported.read() is not grpc.aio.EOF
    watches = [
        served.executions.WatchExecution(execution_pb2.WatchExecutionRequest(id=new_id()), metadata=loud) for _ in "ab"
    ]
    await until(lambda: taking["loud"] == 11)
    quiet = served.executions.WatchExecution(
        execution_pb2.WatchExecutionRequest(id=new_id()), metadata=bearer("ann:OPERATOR", x_group_id="quiet")
    )
    assert await quiet.read() is not grpc.aio.EOF
    assert served.toy.begun["watches"] == 1
    served.toy.gate.set()
    for watch in watches:
        assert await watch.read() is not grpc.aio.EOF
    await asyncio.gather(*waiting)
    imported.cancel()


async def test_who_is_removed_while_their_stream_waits_for_a_turn_gets_nothing_of_it(
    taking: Counter[str], served: Served
) -> None:
    waiting = [_waiting_of(served, "loud") for _ in range(8)]
    await until(lambda: served.toy.begun["loud"] == 8)
    watch = served.executions.WatchExecution(
        execution_pb2.WatchExecutionRequest(id=new_id()), metadata=bearer("bob:OPERATOR", x_group_id="loud")
    )
    await until(lambda: taking["loud"] == 9)
    served.identity.removed.add("bob")
    served.identity.forget("loud")
    served.toy.gate.set()
    code, reason, *_ = await refused(watch.read())
    assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED")
    assert served.toy.begun["watches"] == 0
    await asyncio.gather(*waiting)


async def test_who_is_removed_while_their_call_waits_for_a_turn_gets_nothing_done(
    taking: Counter[str], served: Served
) -> None:
    waiting = [_waiting_of(served, "loud") for _ in range(8)]
    await until(lambda: served.toy.begun["loud"] == 8)
    late = [
        served.models.GetModel(
            model_pb2.GetModelRequest(name="waits"), metadata=bearer(f"{name}:OPERATOR", x_group_id="loud")
        )
        for name in ("bob", "eve")
    ]
    await until(lambda: taking["loud"] == 10)
    served.identity.removed.add("bob")
    served.identity.forget("loud")
    served.toy.gate.set()
    code, reason, *_ = await refused(late[0])
    assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED")
    await asyncio.gather(*waiting, late[1])
    assert served.toy.begun["loud"] == 9


async def test_the_request_of_a_stream_is_decoded_in_its_turn(taking: Counter[str], served: Served) -> None:
    waiting = [_waiting_of(served, "loud") for _ in range(8)]
    await until(lambda: served.toy.begun["loud"] == 8)
    watch = served.executions.WatchExecution(
        execution_pb2.WatchExecutionRequest(), metadata=bearer("ann:OPERATOR", x_group_id="loud")
    )
    # One that is decoded before is refused before it asks for a turn.
    await until(lambda: taking["loud"] == 9)
    served.toy.gate.set()
    code, reason, *_ = await refused(watch.read())
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    await asyncio.gather(*waiting)


async def test_a_stream_counts_as_work_whenever_it_responds(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = list[str]()
    monkeypatch.setattr(GroupLines, "note_stream", lambda _, group_id: noted.append(group_id))
    imported = served.memory.ImportRecords(metadata=bearer("ann:OPERATOR", x_group_id="loud"))
    for number in range(1, 4):
        await imported.write(memory_pb2.ImportRecordsRequest())
        assert await imported.read() is not grpc.aio.EOF
        # Once as it began.
        assert noted == ["loud"] * (number + 1)
    imported.cancel()


async def test_calls_that_wait_for_something_give_their_turns_to_the_rest_of_their_group(served: Served) -> None:
    waiting = [_listed_by(served, "loud") for _ in range(5)]
    await until(lambda: served.toy.listing["loud"] == 5)
    served.toy.gate.set()
    await asyncio.gather(*waiting)


async def test_callers_with_different_credentials_or_groups_never_share_an_identity(served: Served) -> None:
    request = model_pb2.GetModelRequest(name="m")
    names = [f"user{i}" for i in range(25)]
    answers = await asyncio.gather(
        *(
            served.models.GetModel(request, metadata=bearer(f"{name}:OPERATOR", x_group_id=group))
            for name in names
            for group in ("a", "b")
        )
    )
    assert [a.model.name for a in answers] == [f"{name}/{group}" for name in names for group in ("a", "b")]


async def test_a_refused_credential_and_none_are_unauthenticated(served: Served) -> None:
    request = model_pb2.GetModelRequest(name="m")
    code, reason, _, request_id = await refused(served.models.GetModel(request, metadata=bearer("nobody")))
    assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED")
    assert request_id
    code, _, _, _ = await refused(served.models.GetModel(request))
    assert code is grpc.StatusCode.UNAUTHENTICATED


async def test_two_credentials_on_one_call_are_refused_because_it_is_unclear_who_is_meant(served: Served) -> None:
    metadata = (*bearer("ann:ADMIN"), ("x-forwarded-access-token", "other"))
    code, reason, _, _ = await refused(served.models.GetModel(model_pb2.GetModelRequest(name="m"), metadata=metadata))
    assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED")


async def test_a_role_that_is_too_small_is_denied_with_the_role_that_is_needed(served: Served) -> None:
    request = model_pb2.DeleteModelRequest(name="m")
    code, reason, _, _ = await refused(served.models.DeleteModel(request, metadata=bearer("ann:EDITOR")))
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED")
    await served.models.DeleteModel(request, metadata=bearer("ann:ADMIN"))


async def test_a_broken_rule_names_the_field(served: Served) -> None:
    code, reason, violations, _ = await refused(
        served.models.GetModel(model_pb2.GetModelRequest(name=""), metadata=bearer("ann:OPERATOR"))
    )
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert violations == [("name", "must be 1 to 128 characters long; it has 0")]


async def test_more_faults_than_an_answer_holds_are_still_told_as_faults(served: Served) -> None:
    # Paths are partly of the caller's own making.
    request = model_pb2.CreateModelRequest(model=model_pb2.Model(name="m"))
    request.model.provider_options.update({"k" * 1000 + str(number): "" for number in range(500)})
    code, reason, violations, _ = await refused(served.models.CreateModel(request, metadata=bearer("ann:ADMIN")))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert violations[0][0].startswith("model.provider_options")


async def test_a_crowd_of_messages_is_refused_before_it_is_checked(served: Served) -> None:
    # Each would take its time, while nobody else is served.
    crowd = [model_pb2.Deployment() for _ in range(30_001)]
    request = model_pb2.CreateModelRequest(model=model_pb2.Model(name="m", deployments=crowd))
    code, _, violations, _ = await refused(served.models.CreateModel(request, metadata=bearer("ann:ADMIN")))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    [(field, description)] = violations
    assert field == "model.deployments"
    assert "30,000" in description


async def test_bytes_that_are_no_message_are_refused_by_name_of_the_message(served: Served) -> None:
    call: Any = served.channel.unary_unary("/coxswain.models.v1.ModelService/GetModel")
    code, reason, _, _ = await refused(call(b"\xff\xff\xff", metadata=bearer("ann:OPERATOR")))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")


async def test_bytes_that_are_no_message_tell_a_stranger_nothing(served: Served) -> None:
    call: Any = served.channel.unary_unary("/coxswain.models.v1.ModelService/GetModel")
    code, _, _, _ = await refused(call(b"\xff\xff\xff"))
    assert code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        ("missing", grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
        ("later", grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED"),
        ("broken", grpc.StatusCode.INTERNAL, "INTERNAL"),
        # What no status can hold.
        ("half an emoji", grpc.StatusCode.INTERNAL, "INTERNAL"),
        ("endless", grpc.StatusCode.INTERNAL, "INTERNAL"),
    ],
)
async def test_failures_have_their_code_and_reason_and_leak_nothing(
    served: Served, name: str, code: grpc.StatusCode, reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.models.GetModel(model_pb2.GetModelRequest(name=name), metadata=bearer("ann:OPERATOR"))
    assert explain(caught.value)[:2] == (code, reason)
    assert "hunter2" not in str(caught.value)


async def test_the_deadline_of_the_caller_is_known_to_the_handler(served: Served) -> None:
    request = model_pb2.GetModelRequest(name="deadline")
    metadata = bearer("ann:OPERATOR")
    assert (await served.models.GetModel(request, metadata=metadata, timeout=5)).model.name == "some"
    assert (await served.models.GetModel(request, metadata=metadata)).model.name == "none"


async def test_internal_methods_do_not_exist_on_the_public_listener(served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.auth.RevokeDelegation(
            delegation_pb2.RevokeDelegationRequest(execution_id="e"), metadata=bearer("ann:ADMIN")
        )
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_internal_methods_serve_services_only(served: Served) -> None:
    peers = served.host.peers("orchestrator")
    stub = auth_service_pb2_grpc.AuthServiceStub(peers.channel("auth"))
    await stub.RevokeDelegation(delegation_pb2.RevokeDelegationRequest(execution_id="e"))
    await peers.close()
    target = served.host._addresses["auth"]
    async with grpc.aio.insecure_channel(target) as channel:
        stranger = auth_service_pb2_grpc.AuthServiceStub(channel)
        code, reason, _, _ = await refused(
            stranger.RevokeDelegation(
                delegation_pb2.RevokeDelegationRequest(execution_id="e"), metadata=bearer("ann:ADMIN")
            )
        )
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "SERVICE_IDENTITY_REQUIRED")


async def test_an_internal_method_serves_the_services_it_names_and_says_which(served: Served) -> None:
    principal = await served.identity.exchange(Credential("Bearer ann:OPERATOR"), "g")
    for service, method, request, callers in (
        ("memory", "RevokeDelegation", delegation_pb2.RevokeDelegationRequest(execution_id="e"), "orchestrator"),
        ("orchestrator", "ResolveCredential", credential_pb2.ResolveCredentialRequest(), "memory, models, tools"),
    ):
        peers = served.host.peers(service)
        stub = auth_service_pb2_grpc.AuthServiceStub(peers.channel("auth"))
        with acting_as(principal.token), pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(stub, method)(request)
        await peers.close()
        assert explain(caught.value)[:2] == (grpc.StatusCode.PERMISSION_DENIED, "SERVICE_NOT_ALLOWED")
        info = error_details_pb2.ErrorInfo()
        status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
        assert status is not None
        status.details[0].Unpack(info)
        assert dict(info.metadata) == {"service": service, "callers": callers}


async def test_any_service_may_call_what_is_public(served: Served) -> None:
    principal = await served.identity.exchange(Credential("Bearer ann:OPERATOR"), "g")
    for service in SERVICES:
        peers = served.host.peers(service)
        stub = model_service_pb2_grpc.ModelServiceStub(peers.channel("models"))
        with acting_as(principal.token):
            assert (await stub.GetModel(model_pb2.GetModelRequest(name="m"))).model.name == "ann/g"
        await peers.close()


async def test_a_service_acts_for_a_principal_and_never_without_one_where_a_role_is_asked_for(served: Served) -> None:
    peers = served.host.peers("memory")
    stub = auth_service_pb2_grpc.AuthServiceStub(peers.channel("auth"))
    request = credential_pb2.ResolveCredentialRequest(purpose=credential_pb2.CREDENTIAL_PURPOSE_DATABRICKS)
    principal = await served.identity.exchange(Credential("Bearer ann:OPERATOR"), "g")
    with acting_as(principal.token):
        response = await stub.ResolveCredential(request)
    assert (response.token, response.link) == ("ann", "memory")
    code, _, _, _ = await refused(stub.ResolveCredential(request))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    await peers.close()


async def test_lines_of_a_call_say_for_whom_and_for_which_execution_it_is_made_at_each_hop(served: Served) -> None:
    principal = replace(await served.identity.exchange(Credential("Bearer ann:OPERATOR"), "g"), execution_id="e-1")
    peers = served.host.peers("orchestrator")

    async def work() -> None:
        # As a worker host does.
        enter_work(BackgroundWork("r-1", "e-1", "g", "ann"))
        with acting_as(served.identity.sign(principal)):
            await refused(models.GetModel(model_pb2.GetModelRequest(name="missing")))
        assert log_fields() == told

    told = {"request_id": "r-1", "group_id": "g", "subject_hash": subject_hash("ann"), "execution_id": "e-1"}
    models = model_service_pb2_grpc.ModelServiceStub(peers.channel("models"))
    with capture_logs(processors=[lambda _logger, _name, event: {**log_fields(), **event}]) as lines:
        await asyncio.create_task(work())
        await refused(served.models.GetModel(model_pb2.GetModelRequest(name="missing"), metadata=bearer("ann:ADMIN")))
    await peers.close()
    inner, outer = ({name: line.get(name) for name in told} for line in lines if line["event"] == "call_refused")
    assert inner == told
    assert outer | {"request_id": ""} == told | {"request_id": "", "execution_id": None}
    assert log_fields() == {}


def calls(method: str, caller: str, code: str) -> float:
    labels = {"method": method, "caller": caller, "code": code}
    return REGISTRY.get_sample_value("coxswain_rpc_total", labels) or 0.0


def open_now(kind: str) -> float | None:
    return REGISTRY.get_sample_value("coxswain_rpc_open", {"listener": "public", "kind": kind})


async def test_calls_are_counted_by_method_caller_and_outcome_once_each(served: Served) -> None:
    get, resolve = "/coxswain.models.v1.ModelService/GetModel", "/coxswain.auth.v1.AuthService/ResolveCredential"
    expected = (
        (get, "client", "OK"),
        (get, "client", "NOT_FOUND"),
        (resolve, "memory", "OK"),
        (resolve, "client", "OK"),
    )
    before = [calls(*labels) for labels in expected]
    await served.models.GetModel(model_pb2.GetModelRequest(name="m"), metadata=bearer("ann:OPERATOR"))
    await refused(served.models.GetModel(model_pb2.GetModelRequest(name="missing"), metadata=bearer("ann:OPERATOR")))
    principal = await served.identity.exchange(Credential("Bearer ann:OPERATOR"), "g")
    peers = served.host.peers("memory")
    with acting_as(principal.token):
        await auth_service_pb2_grpc.AuthServiceStub(peers.channel("auth")).ResolveCredential(
            credential_pb2.ResolveCredentialRequest(purpose=credential_pb2.CREDENTIAL_PURPOSE_DATABRICKS)
        )
    await peers.close()
    assert [calls(*labels) - was for labels, was in zip(expected, before, strict=True)] == [1, 1, 1, 0]
    # From the start, for rates.
    delete = {"method": "/coxswain.models.v1.ModelService/DeleteModel", "caller": "client", "code": "INTERNAL"}
    assert REGISTRY.get_sample_value("coxswain_rpc_total", delete) is not None


async def test_calls_and_streams_that_are_open_are_counted(served: Served) -> None:
    assert (open_now("calls"), open_now("streams")) == (0, 0)
    watched = served.executions.WatchExecution(
        execution_pb2.WatchExecutionRequest(id=new_id()), metadata=bearer("ann:OPERATOR")
    )
    await watched.read()
    waiting = served.models.DeleteModel(model_pb2.DeleteModelRequest(name="waits"), metadata=bearer("ann:ADMIN"))
    # Open calls hold up no other: this one ends though they stay open.
    async with asyncio.timeout(PATIENCE):
        await served.models.GetModel(model_pb2.GetModelRequest(name="m"), metadata=bearer("ann:ADMIN"))
    assert open_now("streams") == 1
    watch = "/coxswain.orchestrator.v1.ExecutionService/WatchExecution"
    before = calls(watch, "client", "CANCELLED")
    watched.cancel()
    await served.toy.watch_ended.wait()
    await until(lambda: (open_now("calls"), open_now("streams")) == (1, 0))
    served.toy.gate.set()
    await waiting
    assert (open_now("calls"), open_now("streams")) == (0, 0)
    assert calls(watch, "client", "CANCELLED") == before + 1


@pytest.mark.parametrize("name", ["authorization", "x-group-id", "x-forwarded-access-token"])
async def test_a_header_that_says_who_calls_counts_only_when_it_came_once(served: Served, name: str) -> None:
    twice = ((name, "Bearer ann:ADMIN"), (name, "Bearer ben:ADMIN"))
    metadata = twice if name == "authorization" else (*bearer("ann:ADMIN"), *twice)
    request = model_pb2.GetModelRequest(name="m")
    code, reason, _, _ = await refused(served.models.GetModel(request, metadata=metadata))
    assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED")


async def test_principals_and_service_tokens_open_nothing_on_the_public_port(served: Served) -> None:
    principal = await served.identity.exchange(Credential("Bearer ann:ADMIN"), "g")
    token = served.host._identity("memory").token_for("models")
    request = model_pb2.GetModelRequest(name="m")
    for metadata in (
        (("x-coxswain-principal", principal.token),),
        (("x-coxswain-principal", principal.token), ("x-coxswain-service", token)),
        (("x-coxswain-service", token), *bearer("ann:ADMIN")),
    ):
        code, reason, _, _ = await refused(served.models.GetModel(request, metadata=metadata))
        assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "PRINCIPAL_NOT_ACCEPTED")


async def test_a_leaked_principal_alone_opens_nothing_on_the_internal_port(served: Served) -> None:
    principal = await served.identity.exchange(Credential("Bearer ann:ADMIN"), "g")
    async with grpc.aio.insecure_channel(served.host._addresses["auth"]) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        request = model_pb2.GetModelRequest(name="m")
        code, reason, _, _ = await refused(
            stub.GetModel(request, metadata=(("x-coxswain-principal", principal.token),))
        )
        assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "SERVICE_IDENTITY_REQUIRED")
        wrong_audience = served.host._identity("memory").token_for("memory")
        metadata = (("x-coxswain-principal", principal.token), ("x-coxswain-service", wrong_audience))
        code, reason, _, _ = await refused(stub.GetModel(request, metadata=metadata))
        assert (code, reason) == (grpc.StatusCode.UNAUTHENTICATED, "SERVICE_IDENTITY_REQUIRED")


async def test_an_open_stream_ends_soon_after_its_caller_was_removed(tmp_path: Path) -> None:
    async with serve(tmp_path, principal_cache_seconds=0.5) as served:
        stream = served.executions.WatchExecution(
            execution_pb2.WatchExecutionRequest(id="e"), metadata=bearer("ann:OPERATOR")
        )
        events = [await stream.read()]
        served.identity.removed.add("ann")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while True:
                events.append(await stream.read())
        assert explain(caught.value)[:2] == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED")
        assert len(events) == 1
        await served.toy.watch_ended.wait()


async def test_a_stream_ends_at_once_when_auth_tells_that_access_was_revoked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosting, "_ACCESS_CHANGES_SECONDS", 0.02)
    async with serve(tmp_path, principal_cache_seconds=300) as served:
        watch = execution_pb2.WatchExecutionRequest(id="e")
        streams: list[Any] = [
            await opened(served.executions.WatchExecution(watch, metadata=bearer(f"{name}:OPERATOR")))
            for name in ("ann", "bob")
        ]
        served.identity.removed.add("ann")
        served.identity.changes = [AccessChange("ann", "g", time.time(), time.time())]
        assert (await refused(streams[0].read()))[:2] == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED")
        assert not streams[1].done()


async def test_a_client_that_goes_away_ends_the_handler_of_its_stream(served: Served) -> None:
    stream = served.executions.WatchExecution(
        execution_pb2.WatchExecutionRequest(id="e"), metadata=bearer("ann:OPERATOR")
    )
    await stream.read()
    stream.cancel()
    await served.toy.watch_ended.wait()


def test_calls_and_streams_leave_no_garbage_for_the_collector(tmp_path: Path) -> None:
    """On the loop that servers use: asyncio's own loop keeps timers, with all they know, until their time comes."""
    watching = execution_pb2.WatchExecutionRequest(id="e")
    mine = bearer("ann:OPERATOR")

    def kept() -> list[object]:
        return [each for each in gc.get_objects() if type(each).__name__ in ("Call", "_MessageReceiver")]

    async def scenario() -> None:
        async with serve(tmp_path) as served:
            streams = [served.executions.WatchExecution(watching, metadata=mine) for _ in range(10)]
            for stream in streams:
                await stream.read()
            assert len(kept()) >= len(earlier) + 10
            for stream in streams:
                stream.cancel()
            for _ in range(10):
                await served.models.GetModel(model_pb2.GetModelRequest(name="m"), metadata=mine)
            await until(lambda: len(kept()) == len(earlier), "the calls are gone")

    gc.collect()
    # Held, so that none of them goes meanwhile: a thread, or the report of a failed test, may have it for a while yet.
    earlier = kept()
    gc.disable()
    try:
        uvloop.run(scenario())
    finally:
        gc.enable()


async def one_message() -> AsyncIterator[bytes]:
    yield b""


async def test_a_handler_ends_with_its_call_even_when_nobody_takes_what_it_says() -> None:
    ended = asyncio.Event()

    async def handler(_request: Any, _context: Any) -> AsyncIterator[Any]:
        try:
            while True:
                yield model_pb2.GetModelResponse()
        finally:
            ended.set()

    context: Any = SimpleNamespace(invocation_metadata=tuple, time_remaining=lambda: None, peer=str)
    nobody: Any = None
    pipeline = Pipeline(
        nobody, internal=False, stream_check_seconds=1, max_message_bytes=1024, capacity=ROOM, arrivals=Arrivals()
    )
    access = MethodAccess(internal=False, role=Role.ANONYMOUS, repeatable=True)
    method = Method("/m", "models", access, model_pb2.ListModelsRequest)
    responses = pipeline.server_stream(method, handler)(one_message(), context)
    sending = asyncio.Event()

    async def send() -> None:
        async for _ in responses:
            sending.set()
            await asyncio.Event().wait()

    call = asyncio.create_task(send())
    await sending.wait()
    call.cancel()
    # The client is gone, and grpc holds `responses` in a circle of objects, as this test does.
    async with asyncio.timeout(60):
        await ended.wait()
    assert responses is not None


async def test_a_removed_caller_who_still_takes_a_response_hears_why_nothing_follows() -> None:
    removed = asyncio.Event()

    class Removing:
        """Knows the caller once, and not any more."""

        known = True

        async def caller(self, _credential: Any, _group: str) -> Principal:
            if self.known:
                self.known = False
                return await ToyIdentity().exchange(Credential("ann:OPERATOR"), "sales")
            removed.set()
            raise Unauthenticated("ann was removed", reason="CREDENTIAL_REJECTED")

        def remembered_seconds(self, _credential: Any, _group: str) -> float:
            return 0.001

        async def wait_for_change(self, _principal: Principal, seconds: float) -> None:
            await asyncio.sleep(seconds)

    class Context:
        invocation_metadata = staticmethod(lambda: (("authorization", "Bearer ann"),))
        time_remaining = staticmethod(lambda: None)
        peer = str

        async def abort(self, code: Any, details: str, _metadata: Any) -> None:
            raise RuntimeError(code, details)

    async def handler(_request: Any, _context: Any) -> AsyncIterator[Any]:
        while True:
            yield model_pb2.GetModelResponse()

    authenticator: Any = Removing()
    context: Any = Context()
    pipeline = Pipeline(
        authenticator,
        internal=False,
        stream_check_seconds=1,
        max_message_bytes=1024,
        capacity=ROOM,
        arrivals=Arrivals(),
    )
    access = MethodAccess(internal=False, role=Role.OPERATOR, repeatable=True)
    method = Method("/m", "models", access, model_pb2.ListModelsRequest)
    with pytest.raises(RuntimeError, match="ann was removed"):
        async for _ in pipeline.server_stream(method, handler)(one_message(), context):
            # The client takes its time.
            await removed.wait()


def import_message(*texts: str) -> memory_pb2.ImportRecordsRequest:
    target = memory_pb2.ImportTarget(namespace=memory_pb2.Namespace(memory_id="m"))
    records = [record_pb2.Record(unified=record_pb2.UnifiedRecord(content=text)) for text in texts]
    return memory_pb2.ImportRecordsRequest(target=target, records=records)


async def test_requests_that_stream_are_answered_as_they_come(served: Served) -> None:
    stream: Any = served.memory.ImportRecords(metadata=bearer("ann:OPERATOR"))
    for total in (1, 2, 3):
        await stream.write(import_message("a text"))
        assert (await stream.read()).created == total
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


async def test_each_request_of_a_stream_is_checked(served: Served) -> None:
    stream = served.memory.ImportRecords(metadata=bearer("ann:OPERATOR"))
    await stream.write(import_message("a text"))
    await stream.read()
    await stream.write(import_message("a text", ""))
    code, reason, violations, _ = await refused(stream.read())
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert [field for field, _ in violations] == ["records[1].unified.content"]

    raw: Any = served.channel.stream_stream("/coxswain.memory.v1.MemoryService/ImportRecords")
    stream = raw(metadata=bearer("ann:OPERATOR"))
    await stream.write(b"\xff")
    assert (await refused(stream.read()))[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")


async def test_nobody_unknown_streams_requests(served: Served) -> None:
    stream = served.memory.ImportRecords()
    assert (await refused(stream.read()))[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_of_requests_ends_soon_after_its_caller_was_removed(tmp_path: Path) -> None:
    async with serve(tmp_path, principal_cache_seconds=0.5) as served:
        stream = served.memory.ImportRecords(metadata=bearer("ann:OPERATOR"))
        await stream.write(import_message("a text"))
        await stream.read()
        served.identity.removed.add("ann")
        assert (await refused(stream.read()))[:2] == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_REJECTED")
        await served.toy.import_ended.wait()


async def test_a_client_that_sends_nothing_more_is_told_that_it_waits_for_nothing() -> None:
    async def handler(requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:
        async for _ in requests:
            yield memory_pb2.ImportRecordsResponse(messages=1)

    async def messages() -> AsyncIterator[bytes]:
        yield import_message("a text").SerializeToString()
        await asyncio.Event().wait()

    class Aborted(Exception): ...

    told: list[Any] = []

    async def abort(*status: Any) -> None:
        told.extend(status)
        raise Aborted

    context: Any = SimpleNamespace(invocation_metadata=tuple, time_remaining=lambda: None, peer=str, abort=abort)
    nobody: Any = None
    pipeline = Pipeline(
        nobody,
        internal=False,
        stream_check_seconds=1,
        max_message_bytes=1024,
        capacity=ROOM,
        arrivals=Arrivals(),
        idle_seconds=0.05,
    )
    access = MethodAccess(internal=False, role=Role.ANONYMOUS, repeatable=False)
    method = Method("/m", "memory", access, memory_pb2.ImportRecordsRequest)
    responses = pipeline.both_streams(method, handler)(messages(), context)
    assert await anext(responses)
    with pytest.raises(Aborted):
        await anext(responses)
    assert told[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "nothing has come for 0.05 s" in told[1]


async def opened(call: Any) -> Any:
    """Return a stream when its first response has come."""
    assert await call.read() is not grpc.aio.EOF
    return call


async def told(stream: Any) -> tuple[str, str, bool]:
    """Return the code and reason that a stream is refused with, and whether it says when to try again."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await opened(stream)
    code, reason, _, _ = explain(caught.value)
    details = rpc_status.from_call(caught.value).details  # type: ignore[arg-type]
    return code.name, reason, any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in details)


FULL = ("RESOURCE_EXHAUSTED", "OVERLOADED", True)


async def test_streams_are_bounded_by_subject_group_and_all_and_leave_calls_their_places(tmp_path: Path) -> None:
    limits = {"max_open_streams": 4, "max_group_streams": 3, "max_subject_streams": 2, "max_concurrent_calls": 1}
    watch = execution_pb2.WatchExecutionRequest(id="e")
    async with serve(tmp_path, **limits) as served:

        def watched_by(name: str, group: str) -> Any:
            return served.executions.WatchExecution(watch, metadata=bearer(f"{name}:OPERATOR", x_group_id=group))

        held = [await opened(watched_by(name, "sales")) for name in ("ann", "ann", "bob")]
        assert await told(watched_by("ann", "sales")) == FULL, "of her own"
        assert await told(watched_by("cleo", "sales")) == FULL, "of her group"
        held.append(await opened(watched_by("dora", "legal")))
        assert await told(watched_by("emil", "other")) == FULL, "of all"
        model = model_pb2.GetModelRequest(name="m")
        await served.models.GetModel(model, metadata=bearer("ann:OPERATOR"))
        held[0].cancel()
        await served.toy.watch_ended.wait()
        held[0] = await opened(watched_by("ann", "sales"))
        for stream in held:
            stream.cancel()


async def test_more_calls_than_there_are_places_for_are_told_when_to_come_again(tmp_path: Path) -> None:
    waits = model_pb2.GetModelRequest(name="waits")
    async with serve(tmp_path, max_concurrent_calls=3) as served:
        calls = [asyncio.ensure_future(served.models.GetModel(waits, metadata=bearer("a:OPERATOR"))) for _ in range(5)]
        done = set[Any]()
        async with asyncio.timeout(60):
            while len(done) < 2:
                done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        served.toy.gate.set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        failures = [explain(each)[:2] for each in outcomes if isinstance(each, grpc.aio.AioRpcError)]
        assert failures == [(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")] * 2


async def test_a_group_cannot_take_the_places_of_all_calls(tmp_path: Path) -> None:
    waits, model = model_pb2.GetModelRequest(name="waits"), model_pb2.GetModelRequest(name="m")
    async with serve(tmp_path, max_concurrent_calls=4, max_group_calls=2) as served:
        of_sales = bearer("ann:OPERATOR", x_group_id="sales")
        calls = [asyncio.ensure_future(served.models.GetModel(waits, metadata=of_sales)) for _ in range(3)]
        done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert (await refused(done.pop()))[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        await served.models.GetModel(model, metadata=bearer("bob:OPERATOR", x_group_id="legal"))
        served.toy.gate.set()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_a_request_that_does_not_end_holds_no_place_of_another_group(tmp_path: Path) -> None:
    method = "/coxswain.models.v1.ModelService/GetModel"
    async with serve(tmp_path, max_concurrent_calls=2) as served:
        begin: Any = served.channel.stream_unary(method)
        begun = [begin(metadata=bearer("ann:OPERATOR", x_group_id="sales")) for _ in range(2)]
        reading: Any = served.host._listeners[0]._pipeline._capacity.group_calls
        await until(lambda: reading.held("sales") == len(begun))
        model = model_pb2.GetModelRequest(name="m")
        await served.models.GetModel(model, metadata=bearer("bob:OPERATOR", x_group_id="legal"))
        for call in begun:
            call.cancel()


async def test_nobody_keeps_others_from_health_or_calls_by_watching_it(tmp_path: Path) -> None:
    async with serve(tmp_path, max_concurrent_calls=10) as served:
        for listener in served.host._listeners:
            listener._health._streams = AnonymousStreams(Places("watchers", 5), Places("watchers of one host", 3))
        health: Any = health_pb2_grpc.HealthStub(served.channel)
        request = health_pb2.HealthCheckRequest(service="")
        # The first of a connection is what a client checks health with.
        held = [await opened(health.Watch(request)) for _ in range(1 + 3)]
        for _ in range(20):
            assert await told(health.Watch(request)) == FULL
        assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
        model = model_pb2.GetModelRequest(name="m")
        await served.models.GetModel(model, metadata=bearer("ann:OPERATOR"))
        for stream in held:
            stream.cancel()


async def test_health_tells_of_every_service_and_of_the_whole(served: Served) -> None:
    health: Any = health_pb2_grpc.HealthStub(served.channel)
    for name in ("", "coxswain.models.v1.ModelService"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


Ask = Callable[..., Awaitable[reflection_pb2.ServerReflectionResponse]]


def reflection(channel: Any, version: str = "v1") -> Ask:
    call: Any = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )

    async def ask(**request: Any) -> reflection_pb2.ServerReflectionResponse:
        stream = call(iter([reflection_pb2.ServerReflectionRequest(**request)]))
        answer = await stream.read()
        assert isinstance(answer, reflection_pb2.ServerReflectionResponse)
        return answer

    return ask


async def described_methods(ask: Ask, names: Iterable[str]) -> dict[str, list[str]]:
    """What tools see of services: their methods, each below the comment that tells of it."""
    database = DescriptorDatabase()
    found: dict[str, list[str]] = {}
    for name in names:
        answer = (await ask(file_containing_symbol=name)).file_descriptor_response
        files = {file.name: file for file in map(FileDescriptorProto.FromString, answer.file_descriptor_proto)}
        for file in files.values():
            database.Add(file)
        found[name] = [method.name for method in DescriptorPool(database).FindServiceByName(name).methods]
        for file in files.values():
            comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
            for i, service in enumerate(file.service):
                if file.package.startswith("coxswain."):
                    assert comments[6, i].strip()
                    for j, method in enumerate(service.method):
                        assert comments[6, i, 2, j].split()[0] == method.name, "the comment is that of the method"
    return found


async def test_reflection_describes_what_a_listener_serves_and_nothing_else(served: Served) -> None:
    product = [f"coxswain.{name}" for name in ("auth.v1.AuthService", "models.v1.ModelService")]
    worker = "coxswain.orchestrator.v1.WorkerService"
    public = reflection(served.channel)
    shown = await described_methods(public, product)
    assert {"WhoAmI", "ExplainCredential", "ExchangeToken", "GetJwks"} == set(shown[product[0]])
    assert len(shown[product[1]]) == 6
    for hidden in ("coxswain.auth.v1.AuthService.RevokeDelegation", worker, f"{worker}.ListWorkers"):
        assert (await public(file_containing_symbol=hidden)).error_response.error_code == 5
    for file in ("coxswain/auth/v1/auth_service.proto", "coxswain/orchestrator/v1/worker_service.proto"):
        text = b"".join((await public(file_by_filename=file)).file_descriptor_response.file_descriptor_proto)
        assert text
        assert b"RevokeDelegation ends" not in text
        assert b"WorkerService" not in text
    async with grpc.aio.insecure_channel(served.host._addresses["auth"]) as channel:
        internal = await described_methods(reflection(channel), [*product, worker])
        assert set(shown[product[0]]) < set(internal[product[0]])
        assert "RevokeDelegation" in internal[product[0]]
        assert internal[worker], "also what this process does not serve"


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_gives_comments_and_everything_a_file_imports(served: Served, version: str) -> None:
    ask = reflection(served.channel, version)
    names = [s.name for s in (await ask(list_services="")).list_services_response.service]
    assert "coxswain.models.v1.ModelService" in names
    assert "grpc.health.v1.Health" in names
    files = (await ask(file_containing_symbol="coxswain.models.v1.ModelService.GetModel")).file_descriptor_response
    text = b"".join(files.file_descriptor_proto)
    assert b"GetModel returns one model by name" in text
    assert b"buf.validate" in text
    assert (await ask(file_containing_symbol="nobody.Nothing")).error_response.error_code == 5
    assert (await ask(file_by_filename="no/such.proto")).error_response.error_code == 5
    numbers = (await ask(all_extension_numbers_of_type="google.protobuf.MethodOptions")).all_extension_numbers_response
    assert 50501 in numbers.extension_number
    for name in names:
        files = (await ask(file_containing_symbol=name)).file_descriptor_response
        described = [FileDescriptorProto.FromString(raw) for raw in files.file_descriptor_proto]
        services = {f"{file.package}.{service.name}" for file in described for service in file.service}
        assert name in services, "every listed service can be described"
    for detail in ("ErrorInfo", "BadRequest", "RetryInfo", "RequestInfo"):
        files = (await ask(file_containing_symbol=f"google.rpc.{detail}")).file_descriptor_response
        assert files.file_descriptor_proto, "tools can show what an error carries"


async def test_a_port_that_is_taken_is_reported_with_the_mend(served: Served, tmp_path: Path) -> None:
    host = ToyHost(CommonSettings(data_dir=tmp_path), dict.fromkeys(SERVICES, "unix:nowhere"))
    await host.add("models", lambda _settings, _runtime: make_toy(), None)
    with pytest.raises(StartError, match="COXSWAIN_PORT"):
        await host.open(
            public_address=f"127.0.0.1:{served.port}", internal_address="127.0.0.1:0", identity=served.identity
        )
    await host.close(0)


def test_a_service_key_of_another_installation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"memory\.key"):
        Host(CommonSettings(data_dir=tmp_path, identity_mode="jwt"), {}).peers("memory")
    assert reflection_pb2_grpc.ServerReflectionStub is not None


@pytest.fixture
def audited(tmp_path: Path) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Return what reads the audit log, which ends with it."""
    file = tmp_path / "audit.log"
    configure_audit(str(file), tmp_path, service="toy")

    def lines() -> list[dict[str, Any]]:
        stop_audit()
        return [json.loads(line) for line in file.read_text().splitlines()]

    yield lines
    stop_audit()


Lines = Callable[[], list[dict[str, Any]]]


async def test_a_change_is_audited_with_who_what_and_from_where_and_a_reading_call_is_not(
    served: Served, audited: Lines
) -> None:
    request_id = new_id()
    metadata = bearer("ann:ADMIN", x_group_id="sales", x_request_id=request_id)
    await served.models.GetModel(model_pb2.GetModelRequest(name="m"), metadata=metadata)
    await served.models.DeleteModel(model_pb2.DeleteModelRequest(name="m"), metadata=metadata)
    [line] = audited()
    assert line.pop("timestamp").endswith("+00:00")
    assert line.pop("peer").startswith("ipv4:127.0.0.1:")
    assert line == {
        "log": "audit",
        "service": "toy",
        "event": "changed",
        "method": "/coxswain.models.v1.ModelService/DeleteModel",
        "outcome": "OK",
        "subject": "ann",
        "group_id": "sales",
        "role": "ADMIN",
        "resource": {"name": "m"},
        "request_id": request_id,
    }


async def test_refused_and_failed_attempts_are_audited_with_what_is_known(served: Served, audited: Lines) -> None:
    delete, get = model_pb2.DeleteModelRequest(name="m"), model_pb2.GetModelRequest(name="m")
    await refused(served.models.DeleteModel(delete, metadata=bearer("ann:EDITOR", x_group_id="sales")))
    await refused(served.models.GetModel(get, metadata=bearer("who", x_group_id="sales")))
    await refused(served.models.DeleteModel(model_pb2.DeleteModelRequest(), metadata=bearer("ann:ADMIN")))
    denied, unknown, failed = audited()
    assert (denied["event"], denied["outcome"], denied["reason"]) == ("refused", "PERMISSION_DENIED", "ROLE_REQUIRED")
    assert (denied["subject"], denied["role"]) == ("ann", "EDITOR")
    assert (unknown["event"], unknown["outcome"]) == ("refused", "UNAUTHENTICATED")
    assert (unknown["method"], unknown["asked_group_id"]) == ("/coxswain.models.v1.ModelService/GetModel", "sales")
    assert "subject" not in unknown
    assert (failed["event"], failed["outcome"], failed["reason"]) == ("failed", "INVALID_ARGUMENT", "INVALID_FIELD")


async def test_a_secret_in_the_header_of_a_group_or_an_id_is_not_audited(served: Served, audited: Lines) -> None:
    metadata = bearer("who", x_group_id="0123456789abcdef0123456789abcdef", x_request_id="opensesame")
    await refused(served.models.GetModel(model_pb2.GetModelRequest(name="m"), metadata=metadata))
    [line] = audited()
    assert line["outcome"] == "UNAUTHENTICATED"
    assert line.keys().isdisjoint({"asked_group_id", "request_id"})


async def test_strangers_fill_no_disk_and_those_who_are_known_lose_no_line(
    served: Served, audited: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_strangers, "_SECONDS", 3600.0)
    request = model_pb2.DeleteModelRequest(name="m")
    for _ in range(50):
        await refused(served.models.DeleteModel(request, metadata=bearer("who")))
        await refused(served.models.DeleteModel(request, metadata=bearer("ann:EDITOR")))
    lines = audited()
    outcomes = Counter(line.get("outcome", line["event"]) for line in lines)
    assert outcomes == {"UNAUTHENTICATED": 20, "PERMISSION_DENIED": 50, "left_out": 1}
    assert lines[-1]["lines"] == 30


async def test_a_stream_that_changes_something_is_audited_at_its_end(served: Served, audited: Lines) -> None:
    stream: Any = served.memory.ImportRecords(metadata=bearer("ann:OPERATOR"))
    await stream.write(import_message("a private text"))
    await stream.read()
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    await served.host.close(0)
    [line] = audited()
    assert (line["event"], line["outcome"]) == ("changed", "OK")
    assert line["resource"] == {"target.namespace.memory_id": "m", "records": 1}
    assert "private" not in json.dumps(line)


async def test_a_stream_of_requests_whose_client_goes_away_is_audited_as_cancelled(
    served: Served, audited: Lines
) -> None:
    stream: Any = served.memory.ImportRecords(metadata=bearer("ann:OPERATOR"))
    await stream.write(import_message("a text"))
    await stream.read()
    stream.cancel()
    await served.toy.import_ended.wait()
    await served.host.close(0)
    [line] = audited()
    assert (line["event"], line["outcome"]) == ("failed", "CANCELLED")


async def test_a_change_whose_client_goes_away_is_audited_as_cancelled(served: Served, audited: Lines) -> None:
    request = model_pb2.DeleteModelRequest(name="waits")
    call = served.models.DeleteModel(request, metadata=bearer("ann:ADMIN"))
    await until(lambda: served.toy.begun["deletions"])
    call.cancel()
    await served.toy.delete_ended.wait()
    await served.host.close(0)
    [line] = audited()
    assert (line["event"], line["outcome"], line["resource"]) == ("failed", "CANCELLED", {"name": "waits"})
