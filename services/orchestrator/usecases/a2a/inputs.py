"""What a message gives to a crew."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from services.common.errors import InvalidArgument
from services.orchestrator.domain.a2a import DEFAULT_MODES, JSON_MODE, PROVIDED_PREFIX, TEXT_MODE, ProvidedInput
from services.orchestrator.domain.a2a_errors import a2a_error
from services.orchestrator.domain.crew import CrewSpec
from services.orchestrator.placeholders import required_inputs
from services.orchestrator.usecases.a2a.push_configs import PushPlan
from services.orchestrator.usecases.publications import message_inputs, text_input


class PartKind(StrEnum):
    """What a part of a message holds."""

    TEXT = "text"
    DATA = "data"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class MessagePart:
    """A part of a message."""

    path: str
    """Where it lies in the request."""
    kind: PartKind
    value: Any
    """A text, a JSON value, or an object that describes a file."""
    media_type: str = ""
    """As it was sent; empty for the one of its kind."""


@dataclass(frozen=True, slots=True)
class IncomingMessage:
    """A message that somebody sends, and what they want to have back."""

    message_id: str
    context_id: str
    task_id: str
    parts: Sequence[MessagePart]
    reference_task_ids: Sequence[str]
    accepted_modes: Sequence[str]
    """Media types of answers; empty means any."""
    stored: Callable[[str, str], bytes]
    """Returns what is stored of it, for the ids of its task and its context."""
    push: PushPlan | None = None
    """Where to post what happens to the task."""

    @property
    def texts(self) -> list[str]:
        """Its parts of text, and those of data that are not objects."""
        return [
            part.value if part.kind is PartKind.TEXT else json.dumps(part.value, ensure_ascii=False)
            for part in self.parts
            if part.kind is PartKind.TEXT or (part.kind is PartKind.DATA and not isinstance(part.value, dict))
        ]

    @property
    def objects(self) -> list[MessagePart]:
        """Its parts of data that are objects."""
        return [part for part in self.parts if part.kind is PartKind.DATA and isinstance(part.value, dict)]


def input_modes(spec: CrewSpec) -> Sequence[str]:
    """Return the media types that a published crew takes."""
    return spec.a2a.input_modes or DEFAULT_MODES


def output_modes(spec: CrewSpec) -> Sequence[str]:
    """Return the media types that a published crew answers with."""
    return spec.a2a.output_modes or DEFAULT_MODES


def refuse_content(spec: CrewSpec, message: IncomingMessage) -> None:
    """Refuse media types that a crew does not take, or does not answer with.

    Raises:
        InvalidArgument: CONTENT_TYPE_NOT_SUPPORTED.
    """
    offered = output_modes(spec)
    accepted = message.accepted_modes
    if accepted and not _overlap(accepted, offered) and not _overlap(offered, accepted):
        raise a2a_error(
            "CONTENT_TYPE_NOT_SUPPORTED",
            f"configuration.accepted_output_modes: the agent answers with {', '.join(offered)}; accept one of these",
        )
    taken = input_modes(spec)
    for part in message.parts:
        if part.kind is PartKind.FILE and not spec.a2a.file_input:
            raise a2a_error("CONTENT_TYPE_NOT_SUPPORTED", f"{part.path}: the agent takes no files; send text or data")
        if part.kind is PartKind.FILE and not spec.a2a.input_modes:
            continue
        own = {PartKind.TEXT: TEXT_MODE, PartKind.DATA: JSON_MODE}.get(part.kind, "")
        if (part.media_type or own) and not _overlap(taken, [part.media_type or own]):
            raise a2a_error(
                "CONTENT_TYPE_NOT_SUPPORTED",
                f"{part.path}.media_type: the agent takes {', '.join(taken)}, not {part.media_type or own}",
            )


def gathered(spec: CrewSpec, message: IncomingMessage, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs that were given before, with those of a message added.

    Raises:
        InvalidArgument: an object names an input that the service fills in by itself, or there is only text where
            files are missing.
    """
    inputs = dict(before)
    for part in message.objects:
        for name, value in part.value.items():
            if name.startswith(PROVIDED_PREFIX):
                raise InvalidArgument.field(
                    f"{part.path}.data.{name}",
                    f"must be left out: inputs that begin with {PROVIDED_PREFIX} are filled in",
                )
            inputs[name] = value
    if files := [part.value for part in message.parts if part.kind is PartKind.FILE]:
        inputs[spec.a2a.file_input] = files
    if texts := message.texts:
        if name := _takes_text(spec, inputs):
            inputs[name] = "\n\n".join(texts)
        elif len(texts) == len(message.parts) and (missing := missing_inputs(spec, inputs)):
            raise InvalidArgument.field(
                "message.parts", f"have text alone, and the task waits for {', '.join(missing)}; send a file or data"
            )
    return inputs


def _takes_text(spec: CrewSpec, inputs: Mapping[str, Any]) -> str:
    """Return the input that the text of a message is for: what is missing, where the text has been given before.

    It is empty where none is: what was given stays, and files are not given by texts.
    """
    usual = text_input(spec)
    if usual not in inputs:
        return usual
    return next((name for name in missing_inputs(spec, inputs) if name != spec.a2a.file_input), "")


def missing_inputs(spec: CrewSpec, inputs: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of inputs that messages still have to give, each with the field of the crew that needs it."""
    needed = required_inputs(spec)
    return {name: needed[name] for name in message_inputs(spec) if name not in inputs}


def provided(spec: CrewSpec, message_id: str, context_id: str, task_id: str, context: str) -> dict[str, str]:
    """Return those inputs that the service fills in by itself and that a crew refers to."""
    values = {
        ProvidedInput.MESSAGE_ID: message_id,
        ProvidedInput.CONTEXT_ID: context_id,
        ProvidedInput.TASK_ID: task_id,
        ProvidedInput.CONTEXT: context,
    }
    needed = required_inputs(spec)
    return {name.value: value for name, value in values.items() if name in needed}


def _overlap(ones: Iterable[str], others: Iterable[str]) -> bool:
    """Whether some media type is in both, where `*` in the first stands for any."""
    known = {_bare(mode) for mode in others}
    for mode in map(_bare, ones):
        if mode == "*/*" or mode in known:
            return True
        if mode.endswith("/*") and any(other.startswith(mode[:-1]) for other in known):
            return True
    return False


def _bare(mode: str) -> str:
    return mode.partition(";")[0].strip().lower()
