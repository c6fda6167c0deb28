"""Kinds of events, as people name them."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from coxswain.client.later import execution_pb2

_PREFIX = "EXECUTION_EVENT_KIND_"
KINDS = (
    "execution_queued",
    "execution_started",
    "execution_succeeded",
    "execution_failed",
    "execution_cancelled",
    "execution_parked",
    "task_started",
    "task_completed",
    "task_failed",
    "question_raised",
    "question_answered",
    "schedule_started_nothing",
)


def kind_help(text: str) -> str:
    """The help of an option that takes kinds."""
    return f"{text}: {', '.join(KINDS)}."


def kinds_from(given: Iterable[str] | None, option: str) -> list[execution_pb2.ExecutionEventKind.ValueType]:
    """The kinds that the values of an option name. Raises BadParameter for one that there is not."""
    return [_kind(name, option) for name in given or []]


def kind_name(kind: execution_pb2.ExecutionEventKind.ValueType) -> str:
    """The name of a kind."""
    return execution_pb2.ExecutionEventKind.Name(kind).removeprefix(_PREFIX).lower()


def _kind(name: str, option: str) -> execution_pb2.ExecutionEventKind.ValueType:
    if name.lower() not in KINDS:
        raise typer.BadParameter(f"{name!r}: expected one of {', '.join(KINDS)}", param_hint=option)
    return execution_pb2.ExecutionEventKind.Value(f"{_PREFIX}{name.upper()}")
