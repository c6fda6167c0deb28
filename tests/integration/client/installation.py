"""A small installation over real gRPC for tests of the client: servicers of the generated classes, held in memory."""

import contextlib
import hashlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceServicer, add_AuthServiceServicer_to_server
from coxswain.auth.v1.principal_pb2 import WhoAmIResponse
from coxswain.memory.v1.memory_service_pb2_grpc import MemoryServiceServicer, add_MemoryServiceServicer_to_server
from coxswain.orchestrator.v1 import artifact_pb2, crew_pb2, execution_pb2, question_pb2
from coxswain.orchestrator.v1.artifact_service_pb2_grpc import (
    ArtifactServiceServicer,
    add_ArtifactServiceServicer_to_server,
)
from coxswain.orchestrator.v1.crew_pb2 import Crew
from coxswain.orchestrator.v1.crew_service_pb2_grpc import CrewServiceServicer, add_CrewServiceServicer_to_server
from coxswain.orchestrator.v1.execution_pb2 import Execution, ExecutionEvent, ExecutionState
from coxswain.orchestrator.v1.execution_service_pb2_grpc import (
    ExecutionServiceServicer,
    add_ExecutionServiceServicer_to_server,
)
from coxswain.orchestrator.v1.question_service_pb2_grpc import (
    QuestionServiceServicer,
    add_QuestionServiceServicer_to_server,
)
from coxswain.orchestrator.v1.question_state_pb2 import QuestionState

_TERMINAL = {
    "execution_succeeded": ExecutionState.EXECUTION_STATE_SUCCEEDED,
    "execution_failed": ExecutionState.EXECUTION_STATE_FAILED,
    "execution_cancelled": ExecutionState.EXECUTION_STATE_CANCELLED,
}
OPTIONS = (("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


def refuse(context: Any, code: grpc.StatusCode, message: str, *details: Any) -> Any:
    """End a call with google.rpc details."""
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    context.abort_with_status(rpc_status.to_status(status))


def reason(name: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=name, domain="coxswain")


class Installation(
    AuthServiceServicer,
    CrewServiceServicer,
    ExecutionServiceServicer,
    QuestionServiceServicer,
    ArtifactServiceServicer,
    MemoryServiceServicer,
):
    """What the tests script and look at."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.metadata: list[dict[str, str | bytes]] = []
        self.deadlines: list[float | None] = []
        self.requests: list[Any] = []
        self.crews: dict[str, Crew] = {}
        self.executions: dict[str, Execution] = {}
        self.events: list[ExecutionEvent] = []
        self.questions: list[question_pb2.Question] = []
        self.files: dict[str, bytes] = {}
        self.download_breaks_after: list[tuple[int, Callable[[Any], None] | None]] = []
        """For each coming download: how many bytes it sends, and how it ends then; None: without an error."""
        self.more = threading.Condition()
        self.faults: dict[str, list[Callable[[Any], None]]] = {}
        """What the next calls of a method do instead of answering, or before it."""
        self.watch_breaks_after: list[tuple[int, Callable[[Any], None] | None]] = []
        """For each coming watch: how many events it sends, and how it ends then; None: without an error."""
        self.watched_after: list[int] = []

    def enter(self, name: str, request: Any, context: Any) -> None:
        self.calls[name] += 1
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.deadlines.append(context.time_remaining())
        if self.faults.get(name):
            self.faults[name].pop(0)(context)

    def emit(self, *events: ExecutionEvent) -> None:
        with self.more:
            self.events += events
            self.more.notify_all()

    def execution(self) -> Execution:
        last = self.events[-1] if self.events else ExecutionEvent()
        state = _TERMINAL.get(last.WhichOneof("event") or "", ExecutionState.EXECUTION_STATE_RUNNING)
        if last.WhichOneof("event") == "execution_parked":
            state = last.execution_parked.state
        execution = Execution(id="e", state=state, last_sequence=last.sequence)
        if state == ExecutionState.EXECUTION_STATE_SUCCEEDED:
            execution.result.CopyFrom(last.execution_succeeded.result)
        if state == ExecutionState.EXECUTION_STATE_FAILED:
            execution.error.CopyFrom(last.execution_failed.error)
        return execution

    def WhoAmI(self, request: Any, context: Any) -> WhoAmIResponse:
        self.enter("WhoAmI", request, context)
        return WhoAmIResponse()

    def GetCrew(self, request: Any, context: Any) -> crew_pb2.GetCrewResponse:
        self.enter("GetCrew", request, context)
        for crew in self.crews.values():
            if request.id == crew.id or request.name == crew.spec.name:
                return crew_pb2.GetCrewResponse(crew=crew)
        refuse(context, grpc.StatusCode.NOT_FOUND, f"no crew {request.id or request.name!r}", reason("NOT_FOUND"))
        raise AssertionError

    def CreateCrew(self, request: Any, context: Any) -> crew_pb2.CreateCrewResponse:
        self.enter("CreateCrew", request, context)
        crew = Crew(id=f"crew-{len(self.crews)}", revision=1, spec=request.spec)
        self.crews[crew.id] = crew
        return crew_pb2.CreateCrewResponse(crew=crew)

    def UpdateCrew(self, request: Any, context: Any) -> crew_pb2.UpdateCrewResponse:
        self.enter("UpdateCrew", request, context)
        crew = self.crews[request.id]
        if request.expected_revision != crew.revision:
            refuse(context, grpc.StatusCode.ABORTED, "the crew changed", reason("REVISION_MISMATCH"))
        if crew.spec != request.spec:
            crew.spec.CopyFrom(request.spec)
            crew.revision += 1
        return crew_pb2.UpdateCrewResponse(crew=crew)

    def StartExecution(self, request: Any, context: Any) -> execution_pb2.StartExecutionResponse:
        # Stored before a fault can hide the answer: what a client sees when only the answer is lost.
        execution = self.executions.setdefault(
            request.request_id, Execution(id=f"e{len(self.executions)}", crew_id=request.crew_id)
        )
        self.enter("StartExecution", request, context)
        return execution_pb2.StartExecutionResponse(execution=execution)

    def GetExecution(self, request: Any, context: Any) -> execution_pb2.GetExecutionResponse:
        self.enter("GetExecution", request, context)
        return execution_pb2.GetExecutionResponse(execution=self.execution())

    def ListQuestions(self, request: Any, context: Any) -> question_pb2.ListQuestionsResponse:
        self.enter("ListQuestions", request, context)
        return question_pb2.ListQuestionsResponse(questions=self.questions)

    def GetQuestion(self, request: Any, context: Any) -> question_pb2.GetQuestionResponse:
        self.enter("GetQuestion", request, context)
        [question] = [found for found in self.questions if found.id == request.id]
        return question_pb2.GetQuestionResponse(question=question)

    def AnswerQuestion(self, request: Any, context: Any) -> question_pb2.AnswerQuestionResponse:
        self.enter("AnswerQuestion", request, context)
        question = question_pb2.Question(id=request.id, execution_id="e", state=QuestionState.QUESTION_STATE_ACCEPTED)
        return question_pb2.AnswerQuestionResponse(question=question)

    def WatchQuestions(self, request: Any, context: Any) -> Iterator[question_pb2.WatchQuestionsResponse]:
        self.enter("WatchQuestions", request, context)
        self.watched_after.append(request.after_sequence)
        left, ending = self.watch_breaks_after.pop(0) if self.watch_breaks_after else (-1, None)
        for sequence, question in enumerate(self.questions, start=1):
            if left == 0:
                break
            left -= 1
            if sequence > request.after_sequence:
                yield question_pb2.WatchQuestionsResponse(sequence=sequence, question=question)
        if ending is not None:
            ending(context)

    def ListArtifacts(self, request: Any, context: Any) -> artifact_pb2.ListArtifactsResponse:
        self.enter("ListArtifacts", request, context)
        return artifact_pb2.ListArtifactsResponse(artifacts=map(self._artifact, sorted(self.files)))

    def GetArtifact(self, request: Any, context: Any) -> artifact_pb2.GetArtifactResponse:
        self.enter("GetArtifact", request, context)
        if request.name not in self.files:
            refuse(context, grpc.StatusCode.NOT_FOUND, f"no artifact {request.name!r}", reason("NOT_FOUND"))
        return artifact_pb2.GetArtifactResponse(artifact=self._artifact(request.name))

    def DownloadArtifact(self, request: Any, context: Any) -> Iterator[artifact_pb2.DownloadArtifactResponse]:
        self.enter("DownloadArtifact", request, context)
        content = self.files[request.name][request.offset :]
        left, ending = self.download_breaks_after.pop(0) if self.download_breaks_after else (len(content), None)
        first: Any = self._artifact(request.name)
        for start in range(0, min(left, len(content)), 10):
            piece = content[start : min(left, start + 10)]
            yield artifact_pb2.DownloadArtifactResponse(artifact=first, content=piece)
            first = None
        if first is not None:
            yield artifact_pb2.DownloadArtifactResponse(artifact=first)
        if ending is not None:
            ending(context)

    def _artifact(self, name: str) -> artifact_pb2.Artifact:
        content = self.files[name]
        sha256 = hashlib.sha256(content).hexdigest()
        return artifact_pb2.Artifact(name=name, size_bytes=len(content), sha256=sha256, revision=3, task_name="edit")

    def RenewExecutionCredential(self, request: Any, context: Any) -> execution_pb2.RenewExecutionCredentialResponse:
        self.enter("RenewExecutionCredential", request, context)
        return execution_pb2.RenewExecutionCredentialResponse(execution=self.execution())

    def WatchExecution(self, request: Any, context: Any) -> Iterator[execution_pb2.WatchExecutionResponse]:
        self.enter("WatchExecution", request, context)
        self.watched_after.append(request.after_sequence)
        left, ending = self.watch_breaks_after.pop(0) if self.watch_breaks_after else (-1, None)
        position = 0
        while context.is_active():
            with self.more:
                if len(self.events) == position:
                    if self.execution().state in _TERMINAL.values():
                        return
                    self.more.wait(0.2)
                fresh, position = self.events[position:], len(self.events)
            for event in fresh:
                if event.sequence <= request.after_sequence:
                    continue
                if left == 0:
                    if ending is not None:
                        ending(context)
                    return
                left -= 1
                yield execution_pb2.WatchExecutionResponse(event=event)
                if event.WhichOneof("event") in _TERMINAL:
                    return

    def serve(self, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None) -> "Server":
        return Server(self, address, credentials)


class Server:
    """The installation on a port."""

    def __init__(self, installation: Installation, address: str, credentials: grpc.ServerCredentials | None) -> None:
        self._server = grpc.server(ThreadPoolExecutor(16), options=OPTIONS)
        add_AuthServiceServicer_to_server(installation, self._server)
        add_CrewServiceServicer_to_server(installation, self._server)
        add_ExecutionServiceServicer_to_server(installation, self._server)
        add_QuestionServiceServicer_to_server(installation, self._server)
        add_ArtifactServiceServicer_to_server(installation, self._server)
        add_MemoryServiceServicer_to_server(installation, self._server)
        self.health = health.HealthServicer()
        self.health.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        add = self._server.add_insecure_port if credentials is None else None
        port = add(address) if add else self._server.add_secure_port(address, credentials)  # type: ignore[arg-type]
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()


class Relay:
    """A TCP relay before a server, whose connections a test can cut."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                inner, _ = self._listener.accept()
                outer = socket.create_connection(self._target)
                with self._lock:
                    self.connections += 1
                    self._open += [inner, outer]
                for source, sink in ((inner, outer), (outer, inner)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """End every connection as a dying network does."""
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
            self._open.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut()
