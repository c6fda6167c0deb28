"""Tasks and what happens to them, as others see them."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, cast

from a2a.types import a2a_pb2 as pb
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from services.common.grpc.json_values import to_struct, to_value
from services.orchestrator.domain.a2a import JSON_MODE, TEXT_MODE, TaskMessage, TaskRow, TaskState
from services.orchestrator.domain.question import Question, QuestionKind
from services.orchestrator.usecases.a2a.files import FileArtifact
from services.orchestrator.usecases.a2a.streams import TaskChange
from services.orchestrator.usecases.a2a.views import ResultArtifact, TaskView

_MARKDOWN_MODE = "text/markdown"
_FILE_PREFIX = "file/"
_DOWNLOAD = "coxswain.orchestrator.v1.ArtifactService/DownloadArtifact"
_APPROVAL_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "feedback": {"type": "string"}},
    "required": ["approved"],
}
# The name that ExplainCredential has for it: an execution waits for no other one.
_AWAITED_LINK = "user_token"


def task_to_proto(view: TaskView) -> pb.Task:
    """Return a task."""
    metadata: dict[str, Any] = {"coxswain/sequence": view.sequence}
    if view.execution is not None:
        metadata["coxswain/execution"] = view.execution.id
    if view.resumed_from:
        metadata["coxswain/resumed_from"] = view.resumed_from
    if view.more_files:
        metadata["coxswain/more_files"] = True
    return pb.Task(
        id=view.row.id,
        context_id=view.row.context_id,
        status=pb.TaskStatus(
            state=_state(view.state), message=_status_message(view), timestamp=_milliseconds(view.row.status_time)
        ),
        artifacts=[*map(_artifact, view.results), *map(_artifact, view.files)],
        history=[_said(view.row, one) for one in view.history],
        metadata=to_struct(metadata),
    )


def change_to_proto(row: TaskRow, change: TaskChange) -> pb.StreamResponse:
    """Return what a stream says of a change."""
    metadata = _change_metadata(change)
    if change.artifact is not None:
        return pb.StreamResponse(
            artifact_update=pb.TaskArtifactUpdateEvent(
                task_id=row.id,
                context_id=row.context_id,
                artifact=_artifact(change.artifact),
                append=False,
                last_chunk=True,
                metadata=metadata,
            )
        )
    state = change.state or TaskState.WORKING
    message = _message_of(row, state, change.question, change.error_text)
    status = pb.TaskStatus(state=_state(state), message=message, timestamp=_milliseconds(change.time))
    return pb.StreamResponse(
        status_update=pb.TaskStatusUpdateEvent(
            task_id=row.id, context_id=row.context_id, status=status, metadata=metadata
        )
    )


def state_from_proto(state: int) -> TaskState | None:
    """Return the state that a number of the wire names; None where it names none."""
    member = pb.DESCRIPTOR.enum_types_by_name["TaskState"].values_by_number.get(state)
    name = "" if member is None else member.name.removeprefix("TASK_STATE_")
    return TaskState(name) if name in TaskState.__members__ else None


def _change_metadata(change: TaskChange) -> Struct:
    metadata: dict[str, Any] = {"coxswain/sequence": change.sequence}
    if change.task_name:
        metadata |= {"coxswain/task": change.task_name, "coxswain/attempt": change.attempt}
    return to_struct(metadata)


def _state(state: TaskState) -> pb.TaskState:
    return cast("pb.TaskState", pb.TaskState.Value(f"TASK_STATE_{state}"))


def _status_message(view: TaskView) -> pb.Message | None:
    if view.missing:
        names = ", ".join(view.missing)
        listed = [
            {"name": name, "description": f"fills {{{name}}} in {field} of the agent"}
            for name, field in view.missing.items()
        ]
        return _own_message(
            view.row, "missing", f"These inputs are missing: {names}.", pb.Part(data=to_value({"missing": listed}))
        )
    error = view.execution.error if view.execution is not None else None
    text = "" if error is None else f"{error.reason}: {error.message}"
    return _message_of(view.row, view.state, view.question, text)


def _message_of(row: TaskRow, state: TaskState, question: Question | None, error_text: str) -> pb.Message | None:
    if state is TaskState.INPUT_REQUIRED and question is not None:
        return _question(row, question)
    if state is TaskState.AUTH_REQUIRED:
        return _credential(row)
    if state is TaskState.FAILED and error_text:
        return _own_message(row, "failed", error_text)
    return None


def _said(row: TaskRow, said: TaskMessage | Question) -> pb.Message:
    return pb.Message.FromString(said.payload) if isinstance(said, TaskMessage) else _question(row, said)


def _question(row: TaskRow, question: Question) -> pb.Message:
    parts = [pb.Part(text=question.text, media_type=TEXT_MODE)]
    if question.result is not None:
        parts.append(pb.Part(text=question.result.text, media_type=TEXT_MODE))
    approval = question.kind in {QuestionKind.RESULT_APPROVAL, QuestionKind.TOOL_APPROVAL}
    schema = _APPROVAL_SCHEMA if approval else question.schema
    data: dict[str, Any] = {"question_id": question.id, "kind": str(question.kind)}
    if schema is not None:
        data["schema"] = schema
    if question.call is not None:
        data["tool"] = question.call.tool
        if question.call.url:
            data["url"] = question.call.url
    parts.append(pb.Part(data=to_value(data), media_type=JSON_MODE))
    return pb.Message(
        message_id=question.id, task_id=row.id, context_id=row.context_id, role=pb.ROLE_AGENT, parts=parts
    )


def _credential(row: TaskRow) -> pb.Message:
    text = (
        "The task acts with the token of whoever began it, and that has expired. Send a message with this task_id and "
        "a fresh credential of the same subject."
    )
    data = pb.Part(data=to_value({"credential": _AWAITED_LINK, "subject": row.subject}), media_type=JSON_MODE)
    return _own_message(row, "credential", text, data)


def _own_message(row: TaskRow, name: str, text: str, *parts: pb.Part) -> pb.Message:
    return pb.Message(
        message_id=f"{row.id}-{name}",
        task_id=row.id,
        context_id=row.context_id,
        role=pb.ROLE_AGENT,
        parts=[pb.Part(text=text, media_type=TEXT_MODE), *parts],
    )


def _artifact(artifact: ResultArtifact | FileArtifact) -> pb.Artifact:
    if isinstance(artifact, FileArtifact):
        return pb.Artifact(
            artifact_id=f"{_FILE_PREFIX}{artifact.name}", name=artifact.name, parts=[_file_part(artifact)]
        )
    return pb.Artifact(artifact_id=artifact.id, name=artifact.name, parts=_result_parts(artifact))


def _file_part(file: FileArtifact) -> pb.Part:
    if file.content is not None:
        return pb.Part(raw=file.content, filename=file.name, media_type=file.media_type)
    wanted = {"execution_id": file.execution_id, "name": file.name, "revision": file.revision}
    described = {
        "name": file.name,
        "media_type": file.media_type,
        "size_bytes": file.size,
        "sha256": file.sha256,
        "download": {"method": _DOWNLOAD, "request": wanted},
    }
    return pb.Part(data=to_value(described), filename=file.name, media_type=JSON_MODE)


def _result_parts(result: ResultArtifact) -> Iterator[pb.Part]:
    if result.output.structured is not None:
        yield pb.Part(data=to_value(result.output.structured), media_type=JSON_MODE)
    else:
        yield pb.Part(text=result.output.text, media_type=_MARKDOWN_MODE if result.markdown else TEXT_MODE)


def _milliseconds(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMilliseconds(int(moment.timestamp() * 1000))
    return stamp
