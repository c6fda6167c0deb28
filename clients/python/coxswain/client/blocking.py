# Generated from aio.py by `make blocking-client`: edit that file instead.
"""Every service of an installation, and what takes several calls as one method: apply, start, watch, run."""

import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing
from os import PathLike
from types import TracebackType
from typing import Any, Literal, Self

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from coxswain.auth.v1.delegation_pb2 import ExecutionIdentity, OnCredentialExpiry
from coxswain.auth.v1.group_service_pb2_grpc import GroupServiceStub
from coxswain.auth.v1.principal_pb2 import WhoAmIRequest, WhoAmIResponse
from coxswain.auth.v1.secret_service_pb2_grpc import SecretServiceStub
from coxswain.auth.v1.service_token_service_pb2_grpc import ServiceTokenServiceStub
from coxswain.client.blocking_channel import blocking_trailing_metadata, open_blocking_channels
from coxswain.client.connection import Connection, Tls
from coxswain.client.document_upload import document_requests
from coxswain.client.downloads import DownloadCursor
from coxswain.client.errors import AlreadyExists, CoxswainError, DeadlineExceeded, NotFound, Unavailable
from coxswain.client.exports import ExportCursor
from coxswain.client.results import (
    EVERY_FIELD,
    AppliedCrew,
    CrewReference,
    ExecutionNotSucceeded,
    continuation_request,
    crew_key,
    start_request,
)
from coxswain.client.watching import GroupWatchCursor, SequenceCursor, WatchCursor, is_terminal
from coxswain.memory.v1.document_pb2 import DocumentHeader, SaveDocumentResponse
from coxswain.memory.v1.document_service_pb2_grpc import DocumentServiceStub
from coxswain.memory.v1.memory_backend_service_pb2_grpc import MemoryBackendServiceStub
from coxswain.memory.v1.memory_pb2 import ExportRecordsRequest, ExportRecordsResponse
from coxswain.memory.v1.memory_service_pb2_grpc import MemoryServiceStub
from coxswain.memory.v1.vector_index_service_pb2_grpc import VectorIndexServiceStub
from coxswain.models.v1.inference_service_pb2_grpc import InferenceServiceStub
from coxswain.models.v1.model_service_pb2_grpc import ModelServiceStub
from coxswain.models.v1.usage_pb2 import WatchBudgetAlertsRequest, WatchBudgetAlertsResponse
from coxswain.models.v1.usage_service_pb2_grpc import UsageServiceStub
from coxswain.orchestrator.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from coxswain.orchestrator.v1.batch_service_pb2_grpc import BatchServiceStub
from coxswain.orchestrator.v1.crew_pb2 import (
    CreateCrewRequest,
    Crew,
    CrewSpec,
    ExecutionLimits,
    GetCrewRequest,
    UpdateCrewRequest,
)
from coxswain.orchestrator.v1.crew_service_pb2_grpc import CrewServiceStub
from coxswain.orchestrator.v1.execution_pb2 import (
    CompareExecutionsRequest,
    CompareExecutionsResponse,
    Execution,
    ExecutionEvent,
    ExecutionEventKind,
    ExecutionState,
    ForkExecutionRequest,
    GetExecutionRequest,
    OverlapPolicy,
    RenewExecutionCredentialRequest,
    ResumeExecutionRequest,
    WatchExecutionsRequest,
    WatchExecutionsResponse,
)
from coxswain.orchestrator.v1.execution_service_pb2_grpc import ExecutionServiceStub
from coxswain.orchestrator.v1.question_pb2 import (
    ListQuestionsRequest,
    WatchQuestionsRequest,
    WatchQuestionsResponse,
)
from coxswain.orchestrator.v1.question_service_pb2_grpc import QuestionServiceStub
from coxswain.orchestrator.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from coxswain.orchestrator.v1.tool_service_pb2_grpc import ToolServiceStub
from coxswain.orchestrator.v1.tool_source_service_pb2_grpc import ToolSourceServiceStub
from coxswain.orchestrator.v1.webhook_service_pb2_grpc import WebhookServiceStub
from coxswain.orchestrator.v1.worker_service_pb2_grpc import WorkerServiceStub

_CHECK_SECONDS = 5.0


class Client:
    """All services of one installation, behind one address or each at its own.

    Each attribute named after a service is its generated stub: ``client.executions.GetExecution(request)``. Every
    call of one carries identity and a default deadline, is repeated where that is safe, and raises a CoxswainError.
    Use it as ``with Client("host:port") as client``.
    """

    def __init__(
        self,
        address: str | Mapping[str, str] = "",
        *,
        token: str | Callable[[], str] | None = None,
        group: str = "",
        tls: Tls | bool = False,
        timeout: float = 30.0,
    ) -> None:
        """Prepare the connections; the first call makes one. The parameters are those of Connection.

        Raises ValueError for addresses that are none, or not complete.
        """
        self.connection = Connection(address=address, token=token, group=group, tls=tls, timeout=timeout)
        channels = open_blocking_channels(self.connection)
        self.auth = AuthServiceStub(channels["auth"])
        self.groups = GroupServiceStub(channels["auth"])
        self.secrets = SecretServiceStub(channels["auth"])
        self.service_tokens = ServiceTokenServiceStub(channels["auth"])
        self.models = ModelServiceStub(channels["models"])
        self.inference = InferenceServiceStub(channels["models"])
        self.usage = UsageServiceStub(channels["models"])
        self.memory = MemoryServiceStub(channels["memory"])
        self.documents = DocumentServiceStub(channels["memory"])
        self.memory_backends = MemoryBackendServiceStub(channels["memory"])
        self.vector_indexes = VectorIndexServiceStub(channels["memory"])
        self.crews = CrewServiceStub(channels["orchestrator"])
        self.executions = ExecutionServiceStub(channels["orchestrator"])
        self.artifacts = ArtifactServiceStub(channels["orchestrator"])
        self.questions = QuestionServiceStub(channels["orchestrator"])
        self.batches = BatchServiceStub(channels["orchestrator"])
        self.schedules = ScheduleServiceStub(channels["orchestrator"])
        self.tools = ToolServiceStub(channels["orchestrator"])
        self.tool_sources = ToolSourceServiceStub(channels["orchestrator"])
        self.webhooks = WebhookServiceStub(channels["orchestrator"])
        self.workers = WorkerServiceStub(channels["orchestrator"])
        self._channels = channels
        self._health_checks = {
            channel: channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=HealthCheckRequest.SerializeToString,
                response_deserializer=HealthCheckResponse.FromString,
            )
            for channel in channels.values()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connections and every call on them."""
        for channel in self._health_checks:
            channel.close()

    def whoami(self) -> WhoAmIResponse:
        """The caller as the server sees them, and the groups they may choose."""
        return self.auth.WhoAmI(WhoAmIRequest())

    def healthy(self, service: str = "", *, timeout: float = 5.0) -> bool:
        """Whether a service, by its full name, reports that it is serving; an empty name asks about every server.

        Raises NotFound for a service the server does not have, and Unavailable when it cannot be reached or is about to
        stop: calls go to servers alone that say they serve.
        """
        package = service.split(".")[1] if service.startswith("coxswain.") else ""
        asked = [self._channels[package]] if package in self._channels else list(self._health_checks)
        for channel in asked:
            response = self._health_checks[channel](HealthCheckRequest(service=service), timeout=timeout)
            if response.status != response.SERVING:
                return False
        return True

    def release(self, service: str, *, timeout: float = 5.0) -> str:
        """The release of a process that serves a service, by its full name, as "0.1.0"; empty when it does not say.

        Raises NotFound for a service the server does not have, and Unavailable when it cannot be reached.
        """
        health_check = self._health_checks[self._channels[service.split(".")[1]]]
        told = blocking_trailing_metadata(health_check, HealthCheckRequest(service=service), timeout)
        return told.get("coxswain-release", "")

    def get_crew(self, reference: str) -> Crew:
        """A stored crew by id or by name. Raises NotFound."""
        response = self.crews.GetCrew(crew_key(reference))
        return response.crew

    def apply_crew(self, spec: CrewSpec, *, carry_memories: bool = False) -> AppliedCrew:
        """Create the crew, or store a new revision of the one of that name.

        Where a change gives the crew another memory, ``carry_memories`` copies what it remembers.
        Raises InvalidArgument with one violation for each fault, and Aborted when another caller changed it first.
        """
        by_name = GetCrewRequest(name=spec.name)
        try:
            found = self.crews.GetCrew(by_name)
        except NotFound:
            try:
                created = self.crews.CreateCrew(CreateCrewRequest(spec=spec))
                return AppliedCrew(created.crew, "created", tuple(created.warnings))
            except AlreadyExists:
                # Another caller was faster: their crew is the one to change.
                found = self.crews.GetCrew(by_name)
        request = UpdateCrewRequest(
            id=found.crew.id,
            spec=spec,
            update_mask=EVERY_FIELD,
            expected_revision=found.crew.revision,
            carry_over_memories=carry_memories,
        )
        updated = self.crews.UpdateCrew(request)
        change: Literal["unchanged", "updated"] = "updated"
        if updated.crew.revision == found.crew.revision:
            change = "unchanged"
        return AppliedCrew(updated.crew, change, tuple(updated.warnings), updated.carried_memories)

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
        concurrency_key: str = "",
        overlap_policy: OverlapPolicy.ValueType = OverlapPolicy.OVERLAP_POLICY_UNSPECIFIED,
        limits: ExecutionLimits | None = None,
    ) -> Execution:
        """Start an execution and return it as it was stored.

        ``timeout`` is in seconds and limits the execution, not this call. Without a ``request_id`` the call generates
        one, so that a lost answer never starts a second execution; give your own to be safe across restarts too.
        ``identity`` is whom the execution acts as, ``on_credential_expiry`` what happens when its token expires while
        it runs. By default it acts as you if you have a token of your own, and waits for ``renew``.
        ``overlap_policy`` is what happens while another execution with the same ``concurrency_key`` has not ended; with
        SKIP this raises AlreadyExists with the reason CONCURRENCY_KEY_TAKEN.
        ``limits`` are what it may use at most, beside those of the crew; the lower ones count.
        """
        if isinstance(crew, CrewSpec):
            applied = self.apply_crew(crew)
            crew = applied.crew
        request = start_request(
            crew,
            inputs,
            model=model,
            request_id=request_id,
            priority=priority,
            timeout=timeout,
            labels=labels,
            identity=identity,
            on_credential_expiry=on_credential_expiry,
            concurrency_key=concurrency_key,
            overlap_policy=overlap_policy,
            limits=limits,
        )
        response = self.executions.StartExecution(request)
        return response.execution

    def watch(
        self,
        execution_id: str,
        after_sequence: int = 0,
        *,
        exclude_chunks: bool = False,
        max_outage: float = 300.0,
        on_outage: Callable[[CoxswainError], object] | None = None,
    ) -> Generator[ExecutionEvent, None, None]:
        """Every event after ``after_sequence``, once and in order, until the execution has ended.

        Reconnects after a lost connection and continues after the last event. Raises Unavailable after ``max_outage``
        seconds without a connection, and at once any error that another attempt cannot resolve. ``on_outage`` is called
        with each failure that another attempt follows.
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
                current = self.executions.GetExecution(GetExecutionRequest(id=execution_id))
                pause = cursor.pause_after_end(current.execution)
                if pause is None:
                    return
            except CoxswainError as error:
                pause = cursor.pause_after_failure(error)
                if on_outage is not None:
                    on_outage(error)
            finally:
                call.cancel()
            time.sleep(pause)

    def watch_executions(
        self,
        after_position: str = "",
        *,
        crew_id: str = "",
        schedule_id: str = "",
        labels: Mapping[str, str] | None = None,
        kinds: Collection[ExecutionEventKind.ValueType] = (),
        max_outage: float = 300.0,
        on_outage: Callable[[CoxswainError], object] | None = None,
        on_return: Callable[[], object] | None = None,
    ) -> Generator[WatchExecutionsResponse, None, None]:
        """What happens in all executions of the group, from now on or after a position; it does not end by itself.

        A response without an ``event`` tells the position alone: the first one that the watch stands, later ones that
        nothing is to be shown. Keep the ``position`` of the last response to continue in another process. Reconnects as
        ``watch`` does; ``on_return`` is called when the server answers again after an outage. Raises FailedPrecondition
        with the reason POSITION_EXPIRED for a position that is too old.
        """
        request = WatchExecutionsRequest(
            after_position=after_position, crew_id=crew_id, schedule_id=schedule_id, labels=labels, kinds=kinds
        )
        cursor = GroupWatchCursor(request, max_outage=max_outage, renewable=callable(self.connection.token))
        return self._follow(self.executions.WatchExecutions, cursor, on_outage, on_return)

    def watch_questions(
        self,
        after_sequence: int = 0,
        *,
        max_outage: float = 300.0,
        on_outage: Callable[[CoxswainError], object] | None = None,
        on_return: Callable[[], object] | None = None,
    ) -> Generator[WatchQuestionsResponse, None, None]:
        """What people of the group are asked: all open questions, then every change, each once and in order.

        With ``after_sequence``, the ``sequence`` of the last change seen, only what came after it. Reconnects after a
        lost connection and never ends by itself. Raises Unavailable after ``max_outage`` seconds without a connection,
        and at once any error that another attempt cannot resolve. ``on_outage`` is called with each failure that
        another attempt follows, ``on_return`` when the server answers again.
        """
        request = WatchQuestionsRequest(after_sequence=after_sequence)
        cursor = SequenceCursor(request, max_outage=max_outage, renewable=callable(self.connection.token))
        return self._follow(self.questions.WatchQuestions, cursor, on_outage, on_return, self._check_questions)

    def watch_budget_alerts(
        self, after_sequence: int | None = None, *, max_outage: float = 300.0
    ) -> Generator[WatchBudgetAlertsResponse, None, None]:
        """The group's alerts that a share of a limit has been used, each once and in order, from now on.

        With ``after_sequence``, the ``sequence`` of the last response seen, what came after it; 0 begins with all that
        are kept. A response without an ``alert`` tells the sequence alone: the watch stands. Reconnects as
        ``watch_questions`` does.
        """
        request = WatchBudgetAlertsRequest(after_sequence=after_sequence)
        cursor = SequenceCursor(request, max_outage=max_outage, renewable=callable(self.connection.token))
        return self._follow(self.usage.WatchBudgetAlerts, cursor)

    def _follow(
        self,
        method: Any,
        cursor: GroupWatchCursor | SequenceCursor,
        on_outage: Callable[[CoxswainError], object] | None = None,
        on_return: Callable[[], object] | None = None,
        check: Callable[[], Any] | None = None,
    ) -> Generator[Any, None, None]:
        """Yield the responses of one stream after another.

        A stream that may stay without a response for long has a ``check``, which raises while it could not stand.
        """
        is_lost = False
        while True:
            call = None
            try:
                if is_lost and on_return is not None and check is not None:
                    cursor.connects()
                    check()
                    is_lost = False
                    on_return()
                call = method(cursor.request())
                for response in call:
                    cursor.accept(response)
                    if is_lost and on_return is not None:
                        on_return()
                    is_lost = False
                    yield response
                pause = cursor.pause()
            except CoxswainError as error:
                pause = cursor.pause_after_failure(error)
                is_lost = True
                if on_outage is not None:
                    on_outage(error)
            finally:
                if call is not None:
                    call.cancel()
            time.sleep(pause)

    def _check_questions(self) -> None:
        """Raise Unavailable while the server, or what it needs to tell of questions, does not answer."""
        try:
            self.questions.ListQuestions(ListQuestionsRequest(page_size=1), timeout=_CHECK_SECONDS)
        except Unavailable:
            raise
        except DeadlineExceeded as error:
            raise Unavailable(str(error)) from error
        except CoxswainError:
            # It answers, and what it refuses is the stream's to say.
            return

    def download_artifact(
        self, execution_id: str, name: str, *, revision: int = 0, max_outage: float = 300.0
    ) -> Generator[bytes, None, None]:
        """The content of a file of an execution, in pieces of up to 256 KiB; ``revision`` 0 is the newest one.

        Reconnects as ``watch`` does and continues after the last byte. Raises NotFound for a file that is not there,
        Aborted when it gets another content meanwhile, and at the end ValueError when what came is not what is stored.
        """
        cursor = DownloadCursor(
            execution_id, name, revision, max_outage=max_outage, renewable=callable(self.connection.token)
        )
        while True:
            call = self.artifacts.DownloadArtifact(cursor.request())
            try:
                for response in call:
                    yield cursor.accept(response)
                pause = cursor.pause_after_end()
                if pause is None:
                    return
            except CoxswainError as error:
                pause = cursor.pause_after_failure(error)
            finally:
                call.cancel()
            time.sleep(pause)

    def export_records(
        self, request: ExportRecordsRequest, *, max_outage: float = 300.0
    ) -> Generator[ExportRecordsResponse, None, None]:
        """All records of a namespace that match, and first what is known of them as a whole.

        A lost connection is made again, and the export goes on after the last record that has come.

        Raises what the server refuses, and what went wrong when it is out of reach for ``max_outage`` seconds.
        """
        cursor = ExportCursor(request, max_outage=max_outage, renewable=callable(self.connection.token))
        while True:
            call = self.memory.ExportRecords(cursor.request())
            try:
                for response in call:
                    if cursor.accept(response):
                        yield response
                return
            except CoxswainError as error:
                pause = cursor.pause_after_failure(error)
            finally:
                call.cancel()
            time.sleep(pause)

    def save_document(
        self,
        file: str | PathLike[str] | bytes,
        header: DocumentHeader | None = None,
        *,
        on_progress: Callable[[SaveDocumentResponse], object] | None = None,
    ) -> SaveDocumentResponse:
        """Save a file, by its path or its bytes, as a document of the group, and return the last response.

        Its id is the file's name unless ``header`` has one. ``on_progress`` is called with each response.

        Raises what the server refuses, and OSError when the file cannot be read.
        """
        call = self.documents.SaveDocument(document_requests(file, header))
        last = SaveDocumentResponse()
        try:
            for response in call:
                last = response
                if on_progress is not None:
                    on_progress(response)
        finally:
            call.cancel()
        return last

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
        ended = self.executions.GetExecution(GetExecutionRequest(id=started.id))
        if ended.execution.state != ExecutionState.EXECUTION_STATE_SUCCEEDED:
            raise ExecutionNotSucceeded(ended.execution)
        return ended.execution

    def resume(
        self,
        execution_id: str,
        inputs: Mapping[str, object] | None = None,
        *,
        crew_revision: int | None = None,
        model: str | None = None,
        from_task: str = "",
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
        limits: ExecutionLimits | None = None,
        request_id: str = "",
    ) -> Execution:
        """Start an execution that continues one that failed or was cancelled, and return it as it was stored.

        ``inputs`` and ``labels`` are those that are new or have another value. ``crew_revision`` 0 is the newest one,
        ``model`` "" the crew's own; without them they stay as they were. ``from_task`` runs again with all that gets
        its result. Finished tasks that nothing of this concerns are copied. ``limits`` replace those it was started
        with; what it has used counts against them.
        """
        request = continuation_request(
            ResumeExecutionRequest,
            execution_id,
            inputs,
            crew_revision=crew_revision,
            model=model,
            from_task=from_task,
            labels=labels,
            timeout=timeout,
            limits=limits,
            request_id=request_id,
        )
        response = self.executions.ResumeExecution(request)
        return response.execution

    def fork(
        self,
        execution_id: str,
        inputs: Mapping[str, object] | None = None,
        *,
        crew_revision: int | None = None,
        model: str | None = None,
        from_task: str = "",
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
        limits: ExecutionLimits | None = None,
        request_id: str = "",
    ) -> Execution:
        """Start another course of an execution that has ended, also of one that succeeded. See ``resume``.

        Another ``model`` is for ``from_task`` and what depends on it; without ``from_task`` for all tasks, which then
        run again. ``limits`` count from zero. Raises FailedPrecondition with the reason NOTHING_TO_RUN when every
        result would be copied.
        """
        request = continuation_request(
            ForkExecutionRequest,
            execution_id,
            inputs,
            crew_revision=crew_revision,
            model=model,
            from_task=from_task,
            labels=labels,
            timeout=timeout,
            limits=limits,
            request_id=request_id,
        )
        response = self.executions.ForkExecution(request)
        return response.execution

    def compare(self, execution_ids: Sequence[str], *, max_text_characters: int = 0) -> CompareExecutionsResponse:
        """Two to sixteen executions side by side, with all their tasks: what they were given and what has come of it.

        Texts are cut off after ``max_text_characters`` (0: 2,000).
        """
        request = CompareExecutionsRequest(ids=execution_ids, max_text_characters=max_text_characters)
        compared = self.executions.CompareExecutions(request)
        request.page_token = compared.next_page_token
        while request.page_token:
            page = self.executions.CompareExecutions(request)
            compared.tasks.extend(page.tasks)
            request.page_token = page.next_page_token
        compared.next_page_token = ""
        return compared

    def renew(self, execution_id: str) -> Execution:
        """Let an execution that you started continue with the token of this client, and return its current state.

        Raises NotFound, also for an execution that another caller started, and FailedPrecondition when it has ended or
        does not act with a token of yours.
        """
        response = self.executions.RenewExecutionCredential(RenewExecutionCredentialRequest(id=execution_id))
        return response.execution
