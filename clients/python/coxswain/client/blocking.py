"""The client for ordinary, blocking code."""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from coxswain.auth.v1.delegation_pb2 import ExecutionIdentity, OnCredentialExpiry
from coxswain.auth.v1.group_service_pb2_grpc import GroupServiceStub
from coxswain.auth.v1.principal_pb2 import WhoAmIRequest, WhoAmIResponse
from coxswain.auth.v1.secret_service_pb2_grpc import SecretServiceStub
from coxswain.client.connection import Connection, Tls, with_request_id
from coxswain.client.errors import AlreadyExists, CoxswainError, NotFound, from_rpc_error
from coxswain.client.policy import default_timeout
from coxswain.client.results import (
    AppliedCrew,
    CrewReference,
    ExecutionNotSucceeded,
    crew_key,
    start_request,
)
from coxswain.client.watching import WatchCursor, is_terminal
from coxswain.memory.v1.memory_backend_service_pb2_grpc import MemoryBackendServiceStub
from coxswain.memory.v1.memory_service_pb2_grpc import MemoryServiceStub
from coxswain.memory.v1.vector_index_service_pb2_grpc import VectorIndexServiceStub
from coxswain.models.v1.inference_service_pb2_grpc import InferenceServiceStub
from coxswain.models.v1.model_service_pb2_grpc import ModelServiceStub
from coxswain.models.v1.usage_service_pb2_grpc import UsageServiceStub
from coxswain.orchestrator.v1.crew_pb2 import Crew, CrewSpec
from coxswain.orchestrator.v1.crew_service_pb2 import CreateCrewRequest, GetCrewRequest, UpdateCrewRequest
from coxswain.orchestrator.v1.crew_service_pb2_grpc import CrewServiceStub
from coxswain.orchestrator.v1.execution_pb2 import Execution, ExecutionEvent, ExecutionState
from coxswain.orchestrator.v1.execution_service_pb2 import GetExecutionRequest, RenewExecutionCredentialRequest
from coxswain.orchestrator.v1.execution_service_pb2_grpc import ExecutionServiceStub
from coxswain.orchestrator.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from coxswain.orchestrator.v1.tool_service_pb2_grpc import ToolServiceStub
from coxswain.orchestrator.v1.worker_service_pb2_grpc import WorkerServiceStub


class Client:
    """All services of one installation, for blocking code; threads may share it.

    Each attribute named after a service is its generated stub: ``client.executions.GetExecution(request)``. Every call
    of one carries identity and a default deadline, is repeated where that is safe, and raises a CoxswainError.
    Use it as ``with Client("host:port") as client``.
    """

    def __init__(
        self,
        address: str = "",
        *,
        token: str | Callable[[], str] | None = None,
        group: str = "",
        tls: Tls | bool = False,
        timeout: float = 30.0,
    ) -> None:
        """Prepare a connection; the first call makes it. The parameters are those of Connection."""
        self.connection = Connection(address=address, token=token, group=group, tls=tls, timeout=timeout)
        self._raw_channel = _open_channel(self.connection)
        channel = grpc.intercept_channel(self._raw_channel, _Calls(self.connection))
        self.auth = AuthServiceStub(channel)
        self.groups = GroupServiceStub(channel)
        self.secrets = SecretServiceStub(channel)
        self.models = ModelServiceStub(channel)
        self.inference = InferenceServiceStub(channel)
        self.usage = UsageServiceStub(channel)
        self.memory = MemoryServiceStub(channel)
        self.memory_backends = MemoryBackendServiceStub(channel)
        self.vector_indexes = VectorIndexServiceStub(channel)
        self.crews = CrewServiceStub(channel)
        self.executions = ExecutionServiceStub(channel)
        self.schedules = ScheduleServiceStub(channel)
        self.tools = ToolServiceStub(channel)
        self.workers = WorkerServiceStub(channel)
        self._check_health = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection and every call on it."""
        self._raw_channel.close()

    def whoami(self) -> WhoAmIResponse:
        """Who the server takes the caller for, and the groups they may choose."""
        return self.auth.WhoAmI(WhoAmIRequest())

    def healthy(self, service: str = "", *, timeout: float = 5.0) -> bool:
        """Whether a service says that it serves; empty asks for the server as a whole.

        Raises NotFound for a service the server does not know and Unavailable when nobody answers.
        """
        response = self._check_health(HealthCheckRequest(service=service), timeout=timeout)
        return bool(response.status == response.SERVING)

    def get_crew(self, reference: str) -> Crew:
        """A stored crew by id or by name. Raises NotFound."""
        return self.crews.GetCrew(crew_key(reference)).crew

    def apply_crew(self, spec: CrewSpec) -> AppliedCrew:
        """Create the crew, or store a new revision of the one of that name.

        Raises InvalidArgument with one violation for each fault, and Aborted when somebody else changed it meanwhile.
        """
        try:
            stored = self.crews.GetCrew(GetCrewRequest(name=spec.name)).crew
        except NotFound:
            try:
                return AppliedCrew(self.crews.CreateCrew(CreateCrewRequest(spec=spec)).crew, "created")
            except AlreadyExists:
                # Somebody was faster: theirs is what this one changes.
                stored = self.crews.GetCrew(GetCrewRequest(name=spec.name)).crew
        crew = self.crews.UpdateCrew(UpdateCrewRequest(id=stored.id, spec=spec, expected_revision=stored.revision)).crew
        return AppliedCrew(crew, "unchanged" if crew.revision == stored.revision else "updated")

    def start(
        self,
        crew: CrewReference,
        inputs: Mapping[str, object] | None = None,
        *,
        model: str = "",
        request_id: str = "",
        priority: int = 0,
        timeout: float | None = None,
        labels: Mapping[str, str] | None = None,
        identity: ExecutionIdentity.ValueType = ExecutionIdentity.EXECUTION_IDENTITY_UNSPECIFIED,
        on_credential_expiry: OnCredentialExpiry.ValueType = OnCredentialExpiry.ON_CREDENTIAL_EXPIRY_UNSPECIFIED,
    ) -> Execution:
        """Start an execution and return it as it was stored.

        ``timeout`` is in seconds and for the execution, not for this call. Without a ``request_id`` the call gets one
        of its own, so a lost answer never starts a second execution; give your own to be safe across restarts too.
        ``identity`` is whom the execution acts as, ``on_credential_expiry`` what happens when the token it acts with
        expires meanwhile; unspecified, it acts as you where you have a token of your own, and waits for ``renew``.
        """
        crew_id, revision = self._resolve(crew)
        request = start_request(
            crew_id,
            inputs,
            revision=revision,
            model=model,
            request_id=request_id,
            priority=priority,
            timeout=timeout,
            labels=labels,
            identity=identity,
            on_credential_expiry=on_credential_expiry,
        )
        return self.executions.StartExecution(request).execution

    def watch(
        self,
        execution_id: str,
        after_sequence: int = 0,
        *,
        exclude_chunks: bool = False,
        max_outage: float = 300.0,
    ) -> Generator[ExecutionEvent, None, None]:
        """Every event behind ``after_sequence``, once and in order, until the execution has ended.

        A lost connection is made again, going on behind the last event. Raises Unavailable after ``max_outage`` seconds
        without a connection, and any error that another try cannot mend at once.
        """
        cursor = WatchCursor(
            execution_id,
            after_sequence,
            exclude_chunks=exclude_chunks,
            max_outage=max_outage,
            renewable=callable(self.connection.token),
        )
        while True:
            call = self.executions.WatchExecution(cursor.request())
            try:
                for response in call:
                    if cursor.accept(response.event):
                        yield response.event
                        if is_terminal(response.event):
                            return
                execution = self.executions.GetExecution(GetExecutionRequest(id=execution_id)).execution
                pause = cursor.pause_after_end(execution)
                if pause is None:
                    return
            except CoxswainError as error:
                pause = cursor.pause_after_failure(error)
            finally:
                call.cancel()
            time.sleep(pause)

    def run(
        self,
        crew: CrewReference,
        inputs: Mapping[str, object] | None = None,
        *,
        model: str = "",
        request_id: str = "",
        timeout: float | None = None,
        identity: ExecutionIdentity.ValueType = ExecutionIdentity.EXECUTION_IDENTITY_UNSPECIFIED,
        on_credential_expiry: OnCredentialExpiry.ValueType = OnCredentialExpiry.ON_CREDENTIAL_EXPIRY_UNSPECIFIED,
        on_event: Callable[[ExecutionEvent], None] | None = None,
    ) -> Execution:
        """Start an execution, wait for its end and return it with its result. The parameters are those of ``start``.

        Raises ExecutionNotSucceeded when it fails or is cancelled.
        """
        started = self.start(
            crew,
            inputs,
            model=model,
            request_id=request_id,
            timeout=timeout,
            identity=identity,
            on_credential_expiry=on_credential_expiry,
        )
        with closing(self.watch(started.id, exclude_chunks=on_event is None)) as events:
            for event in events:
                if on_event is not None:
                    on_event(event)
        execution = self.executions.GetExecution(GetExecutionRequest(id=started.id)).execution
        if execution.state != ExecutionState.EXECUTION_STATE_SUCCEEDED:
            raise ExecutionNotSucceeded(execution)
        return execution

    def renew(self, execution_id: str) -> Execution:
        """Let an execution that you started go on with the token of this client, and return it as it stands.

        Raises NotFound, also for what somebody else has started, and FailedPrecondition when it has ended or acts with
        no token of yours.
        """
        request = RenewExecutionCredentialRequest(id=execution_id)
        return self.executions.RenewExecutionCredential(request).execution

    def _resolve(self, crew: CrewReference) -> tuple[str, int]:
        if isinstance(crew, str):
            return self.get_crew(crew).id, 0
        if isinstance(crew, CrewSpec):
            crew = self.apply_crew(crew).crew
        return crew.id, crew.revision


def _open_channel(connection: Connection) -> grpc.Channel:
    credentials = connection.credentials
    if credentials is None:
        return grpc.insecure_channel(connection.target, options=connection.options)
    return grpc.secure_channel(connection.target, credentials, options=connection.options)


@dataclass
class _Details(grpc.ClientCallDetails):
    method: str
    timeout: float | None
    metadata: Any
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Calls(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _details(self, details: grpc.ClientCallDetails) -> grpc.ClientCallDetails:
        timeout = details.timeout
        if timeout is None:
            timeout = default_timeout(details.method, self._connection.timeout)
        given = cast("list[tuple[str, str | bytes]]", list(details.metadata or ()))
        return _Details(
            details.method,
            timeout,
            self._connection.metadata(given),
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )

    def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Any], Any],
        client_call_details: grpc.ClientCallDetails,
        request: Any,
    ) -> Any:
        return _Answer(continuation(self._details(client_call_details), with_request_id(request)))

    def intercept_unary_stream(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Any], Any],
        client_call_details: grpc.ClientCallDetails,
        request: Any,
    ) -> Any:
        return _Answers(continuation(self._details(client_call_details), with_request_id(request)))


class _Answer:
    """A call whose failure is a CoxswainError."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def result(self, timeout: float | None = None) -> Any:
        try:
            return self._call.result(timeout)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        error = self._call.exception(timeout)
        return from_rpc_error(error) if isinstance(error, grpc.RpcError) else error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


class _Answers:
    """A stream whose failure is a CoxswainError."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)
