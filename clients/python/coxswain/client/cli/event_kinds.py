"""Kinds of events, as people name them."""

from collections.abc import Iterable

import typer

from coxswain.orchestrator.v1.execution_pb2 import ExecutionEventKind

_PREFIX = "EXECUTION_EVENT_KIND_"
_KINDS = [name.removeprefix(_PREFIX).lower() for name in list(ExecutionEventKind.keys())[1:]]


def kind_help(text: str) -> str:
    """The help of an option that takes kinds."""
    return f"{text}: {', '.join(_KINDS)}."


def kinds_from(given: Iterable[str] | None, option: str) -> list[ExecutionEventKind.ValueType]:
    """The kinds that the values of an option name. Raises BadParameter for one that there is not."""
    return [_kind(name, option) for name in given or []]


def kind_name(kind: ExecutionEventKind.ValueType) -> str:
    """The name of a kind."""
    return ExecutionEventKind.Name(kind).removeprefix(_PREFIX).lower()


def _kind(name: str, option: str) -> ExecutionEventKind.ValueType:
    if name.lower() not in _KINDS:
        raise typer.BadParameter(f"{name!r}: expected one of {', '.join(_KINDS)}", param_hint=option)
    return ExecutionEventKind.Value(f"{_PREFIX}{name.upper()}")
