"""Options that give an execution its inputs and labels."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, TypeVar

import typer

from coxswain.client.cli.session import Session
from coxswain.client.later import crew_pb2, execution_pb2
from coxswain.client.near import did_you_mean, near_names
from coxswain.client.text_files import read_text

T = TypeVar("T")

MAX_INPUT_BYTES = 16 * 1024 * 1024

InputsOption = Annotated[
    list[str] | None,
    typer.Option("--input", "-i", help="key=text, key=@file (key=@- reads standard input) or key:=json; repeatable."),
]


class OverlapChoice(StrEnum):
    """What happens while another execution with the same key has not ended."""

    ALLOW = "allow"
    SKIP = "skip"
    QUEUE = "queue"
    CANCEL_OLD = "cancel-old"


KeyOption = Annotated[
    str, typer.Option("--key", help="What must not be done by two executions at once, for example customer-4711.")
]
OverlapOption = Annotated[
    OverlapChoice | None,
    typer.Option(help="While another one with the key has not ended: run beside it, not at all, after it, or end it."),
]
LabelsOption = Annotated[list[str] | None, typer.Option("--label", help="key=value; repeatable.")]


def inputs_from(session: Session, given: Iterable[str] | None) -> dict[str, object]:
    """The inputs of ``--input``; prints the encoding of a file that is not UTF-8.

    Raises typer.BadParameter for a malformed option, OSError and TextFileError for a file that cannot be used.
    """
    return _once("--input", (_input(session, text) for text in given or []))


def labels_from(given: Iterable[str] | None) -> dict[str, str]:
    """The labels of ``--label``. Raises typer.BadParameter for a malformed option."""
    return _once("--label", map(_label, given or []))


def overlap_from(choice: OverlapChoice | None) -> execution_pb2.OverlapPolicy.ValueType:
    """The policy of ``--overlap``."""
    return execution_pb2.OverlapPolicy.Value(f"OVERLAP_POLICY_{choice.name if choice else 'UNSPECIFIED'}")


def _once(option: str, pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    found: dict[str, T] = {}
    for key, value in pairs:
        if key in found:
            raise typer.BadParameter(f"{key!r} is given twice", param_hint=option)
        found[key] = value
    return found


def warn_of_unused(session: Session, crew: crew_pb2.Crew, inputs: Iterable[str]) -> None:
    """Warn on standard error of inputs that no text of the crew uses."""
    for name in inputs:
        if name in crew.input_names:
            continue
        hint = did_you_mean(near_names(name, crew.input_names, 1))
        said = f"no text of {crew.spec.name} uses the input {name!r}"
        session.say(f"warning: {said}; {hint}" if hint else f"warning: {said}", "yellow")


def _input(session: Session, text: str) -> tuple[str, object]:
    """``key=text``, ``key=@file`` or ``key:=json``."""
    key, equals, value = text.partition("=")
    if not equals or not key.rstrip(":"):
        raise typer.BadParameter(f"{text!r}: expected key=text, key=@file or key:=json", param_hint="--input")
    if key.endswith(":"):
        try:
            return key[:-1], json.loads(value)
        except ValueError as error:
            raise typer.BadParameter(f"{key[:-1]}: not valid JSON: {error}", param_hint="--input") from error
    if value.startswith("@@"):
        return key, value[1:]
    if not value.startswith("@"):
        return key, value
    file = read_text(value[1:], MAX_INPUT_BYTES)
    if not file.encoding.startswith("utf-8"):
        session.say(f"{value[1:]}: read as {file.encoding}", "yellow")
    return key, file.text


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"{text!r}: expected key=value", param_hint="--label")
    return key, value
