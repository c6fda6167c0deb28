"""Messages to agents, and what their tasks say to models and people."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from a2a.types import a2a_pb2 as pb
from google.protobuf import json_format

from services.common.egress import is_public_https
from services.common.errors import InvalidArgument
from services.common.grpc.json_values import from_value, to_value
from services.common.storable import storable
from services.orchestrator.tool_gateway.adapters.foreign import ForeignTextError, parse_json, shown, stored_file
from services.orchestrator.tool_gateway.adapters.forms import BadQuestion, form_of, shown_url
from services.orchestrator.tool_gateway.ports import CallRefused, SourceQuestion, StoredFile, ToolResult

MAX_ARGUMENT_BYTES = 1024 * 1024
MAX_QUESTION_BYTES = 4096
MAX_STATUS_BYTES = 256 * 1024
"""Of a status that people are asked with."""
_MAX_FILES = 20
_EXACT = 2**53
_ANSWER = "answer"
_ANSWER_FORM: Mapping[str, Any] = {
    "type": "object",
    "properties": {_ANSWER: {"type": "string", "minLength": 1, "description": "What the agent is told."}},
    "required": [_ANSWER],
}
_NO_FIELDS: Mapping[str, Any] = {"type": "object", "properties": {}}
_GRANTED = "What the task waits for has been done; go on."
_TEXT_MODE, _JSON_MODE = "text/plain", "application/json"

Hide = Callable[[str], str]
"""Returns a text without what calls are authenticated with."""


def argument_parts(arguments: Mapping[str, Any]) -> list[pb.Part]:
    """Return what the arguments of a call give to an agent.

    Raises:
        CallRefused: there is nothing in them, or what A2A cannot carry as it is.
    """
    parts = []
    text, data = arguments.get("message"), arguments.get("data")
    if text:
        if storable(text) != text:
            raise CallRefused("the message holds characters that no text can hold", reason="TOOL_ARGUMENTS")
        parts.append(pb.Part(text=text, media_type=_TEXT_MODE))
    if data is not None:
        parts.append(_data_part(data))
    if not parts:
        raise CallRefused("give `message`, `data` or both: there is nothing to send", reason="TOOL_ARGUMENTS")
    if sum(part.ByteSize() for part in parts) > MAX_ARGUMENT_BYTES:
        raise CallRefused(f"the arguments are larger than {MAX_ARGUMENT_BYTES} bytes", reason="TOOL_ARGUMENTS")
    return parts


def _data_part(data: Any) -> pb.Part:
    if not _is_exact(data):
        raise CallRefused(
            "`data` holds a whole number beyond 2^53, which A2A would round; give it as text", reason="TOOL_ARGUMENTS"
        )
    try:
        return pb.Part(data=to_value(data), media_type=_JSON_MODE)
    except (json_format.ParseError, ValueError, RecursionError):
        raise CallRefused("`data` holds what A2A cannot carry: it is too deep", reason="TOOL_ARGUMENTS") from None


def _is_exact(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_exact, value.values()))
    if isinstance(value, list):
        return all(map(_is_exact, value))
    return isinstance(value, bool) or not isinstance(value, int) or abs(value) <= _EXACT


# Questions


@dataclass(frozen=True, slots=True)
class AgentQuestion:
    """What a task waits for, as people are asked."""

    question: SourceQuestion
    as_text: bool
    """Whether the answer is sent as text, and not as the object of a form."""

    def answer(self, content: Mapping[str, Any]) -> pb.Part:
        """Return what the agent gets of what a person has accepted with."""
        if self.question.url or self.question.schema == _NO_FIELDS:
            return pb.Part(text=_GRANTED, media_type=_TEXT_MODE)
        if self.as_text:
            return pb.Part(text=storable(str(content.get(_ANSWER, ""))), media_type=_TEXT_MODE)
        return pb.Part(data=to_value(dict(content)), media_type=_JSON_MODE)


def status_key(status: pb.TaskStatus) -> str:
    """Return what tells one status of a task from the next; of a very large message its id does."""
    if status.ByteSize() > MAX_STATUS_BYTES:
        said = pb.Message(message_id=status.message.message_id[:MAX_QUESTION_BYTES])
        status = pb.TaskStatus(state=status.state, timestamp=status.timestamp, message=said)
    return sha256(status.SerializeToString(deterministic=True)).hexdigest()


def question_of(status: pb.TaskStatus, hide: Hide, *, refused: str = "", answers: int = 0) -> AgentQuestion:
    """Return the question of an interrupted task.

    `refused` says why the agent did not take the last answer, and `answers` how many it has had to the same status.

    Raises:
        AsksForSecret: a field of its form looks like a password.
        BadQuestion: it leads people to an address that they must not be led to.
    """
    text = shown(hide(texts_of(status.message.parts)), MAX_QUESTION_BYTES)
    data = [found for found in map(_object, status.message.parts) if found]
    if refused:
        text = f"The agent did not take the last answer: {refused}\n{text}"
    key = f"{status_key(status)}-{answers}"
    if status.state == pb.TASK_STATE_AUTH_REQUIRED:
        text = text or "The agent waits for an authorization, and does not say which."
        url = next((found["url"] for found in data if isinstance(found.get("url"), str)), "")
        url = url or next((part.url for part in status.message.parts if part.url), "")
        if not url:
            return AgentQuestion(SourceQuestion(text, dict(_NO_FIELDS), key=key), as_text=True)
        if not is_public_https(url):
            raise BadQuestion("it sends people to an address that is not public")
        return AgentQuestion(SourceQuestion(text, url=shown_url(url), key=key), as_text=True)
    text = text or "The agent waits for an input, and does not say which."
    for found in data:
        try:
            schema = form_of(_schema_in(found))
        except BadQuestion:
            continue
        return AgentQuestion(SourceQuestion(text, schema, key=key), as_text=False)
    return AgentQuestion(SourceQuestion(text, dict(_ANSWER_FORM), key=key), as_text=True)


def _schema_in(found: Mapping[str, Any]) -> Any:
    """Return the schema of the answer that a part of data describes, None where it describes none."""
    missing = found.get("missing")
    if isinstance(missing, list):
        fields = [one for one in missing if isinstance(one, dict) and isinstance(one.get("name"), str)]
        properties = {one["name"]: {"type": "string", "description": str(one.get("description", ""))} for one in fields}
        return {"type": "object", "properties": properties, "required": list(properties)} if properties else None
    return found.get("schema")


def _object(part: pb.Part) -> dict[str, Any]:
    if not part.HasField("data"):
        return {}
    try:
        value = from_value("data", part.data)
    except InvalidArgument:
        return {}
    return value if isinstance(value, dict) else {}


# Results


def texts_of(parts: Iterable[pb.Part]) -> str:
    """Return the texts among parts."""
    return "\n\n".join(part.text for part in parts if part.text)


def message_result(message: pb.Message, hide: Hide) -> ToolResult:
    """Return what an agent answers that made no task of a message."""
    return _Contents(hide).take(message.message_id, message.parts).result()


def task_result(task: pb.Task, hide: Hide) -> ToolResult:
    """Return what has come of a task that has ended."""
    contents = _Contents(hide)
    for artifact in task.artifacts:
        contents.take(artifact.name or artifact.artifact_id, artifact.parts)
    said = storable(hide(texts_of(task.status.message.parts)))
    if task.status.state == pb.TASK_STATE_COMPLETED:
        if contents.is_empty:
            contents.take("", task.status.message.parts)
        return (
            contents.result() if not contents.is_empty else ToolResult("The agent has done it, and returned nothing.")
        )
    ends = {
        pb.TASK_STATE_FAILED: "The agent failed",
        pb.TASK_STATE_REJECTED: "The agent does not do this",
        pb.TASK_STATE_CANCELED: "The task was cancelled at the agent",
    }
    made = contents.result(is_error=True)
    text = f"{ends[task.status.state]}: {said}" if said else f"{ends[task.status.state]}, and did not say why."
    return ToolResult("\n".join(filter(None, [text, made.text])), is_error=True, files=made.files)


class _Contents:
    """Parts, sorted into text, data and files."""

    def __init__(self, hide: Hide) -> None:
        self._hide = hide
        self._texts: list[str] = []
        self._data: list[tuple[int, str, Any]] = []
        self._files: list[StoredFile] = []

    @property
    def is_empty(self) -> bool:
        return not (self._texts or self._files)

    def take(self, name: str, parts: Iterable[pb.Part]) -> "_Contents":
        """Take the parts of an artifact."""
        for part in parts:
            match part.WhichOneof("content"):
                case "text":
                    self._texts.append(storable(self._hide(part.text)))
                case "data":
                    self._take_data(part)
                case "raw" if len(self._files) < _MAX_FILES:
                    self._files.append(stored_file(part.filename or name, part.media_type, part.raw))
                case "raw":
                    self._texts.append(f"[A file was left out: a result has at most {_MAX_FILES}.]")
                case "url":
                    where = shown(self._hide(part.url), 2048)
                    self._texts.append(f"[{shown(part.filename, 255) or 'A file'} is at {where}; it was not fetched.]")
                case _:
                    pass
        return self

    def result(self, *, is_error: bool = False) -> ToolResult:
        """Return what was taken: JSON first, which alone is structured where there is one."""
        files = tuple(self._files)
        if len(self._data) != 1 or is_error:
            return ToolResult("\n\n".join(self._texts), is_error=is_error, files=files)
        place, text, value = self._data[0]
        others = [one for index, one in enumerate(self._texts) if index != place]
        return ToolResult("\n".join([text, *others]), value, files=files)

    def _take_data(self, part: pb.Part) -> None:
        try:
            written = json.dumps(from_value("data", part.data), ensure_ascii=False, separators=(",", ":"))
            value = parse_json(self._hide(written), "the data")
        except (InvalidArgument, ForeignTextError, RecursionError) as error:
            self._texts.append(f"[Data was left out: {_why(error)}]")
            return
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        self._data.append((len(self._texts), text, value))
        self._texts.append(text)


def _why(error: Exception) -> str:
    if isinstance(error, InvalidArgument):
        return "; ".join(f"{one.field} {one.description}" for one in error.violations)
    return str(error) or "it is too deep"


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """What an event of a stream tells."""

    task_id: str
    status: pb.TaskStatus | None = None
    """How the task stands now; None where nothing is said of that."""
    text: str = ""
    """For people."""


def stream_event(response: pb.StreamResponse) -> StreamEvent:
    """Return what an event of a stream tells; of no task if it is none."""
    match response.WhichOneof("payload"):
        case "task":
            return StreamEvent(response.task.id, response.task.status)
        case "status_update":
            update = response.status_update
            return StreamEvent(update.task_id, update.status, texts_of(update.status.message.parts))
        case "artifact_update":
            return StreamEvent(response.artifact_update.task_id)
        case _:
            return StreamEvent("")
