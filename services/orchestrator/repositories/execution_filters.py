"""Filters of executions as SQL."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from sqlalchemy import Column, ColumnElement, exists

from services.common.ids import lowest_id
from services.orchestrator.domain.execution_filter import ExecutionFilter
from services.orchestrator.tables import execution_labels, executions

# An id is made in the moment before the time of creation is taken, by the same clock.
_ID_MARGIN = timedelta(minutes=1)
_EQUAL = ("crew_id", "schedule_id", "subject", "error_reason", "resumed_from", "batch_id")


def label_hashes(labels: Mapping[str, str]) -> list[str]:
    """Return what labels are found by: names and values are too long for a key of an index."""
    return [hashlib.sha256(json.dumps(label).encode()).hexdigest() for label in sorted(labels.items())]


def conditions(group_id: str, chosen: ExecutionFilter) -> Iterator[ColumnElement[bool]]:
    """Yield what is true of the rows of a group that a filter chooses."""
    yield executions.c.group_id == group_id
    for name in _EQUAL:
        if value := getattr(chosen, name):
            yield executions.c[name] == value
    if chosen.states:
        yield executions.c.state.in_(sorted(chosen.states))
    for label_hash in label_hashes(chosen.labels):
        yield exists().where(
            execution_labels.c.group_id == group_id,
            execution_labels.c.label_hash == label_hash,
            execution_labels.c.execution_id == executions.c.id,
        )
    yield from _between(executions.c.created_at, chosen.min_created_at, chosen.max_created_at)
    yield from _between(executions.c.ended_at, chosen.min_ended_at, chosen.max_ended_at)
    # Lists are in the order of ids, and so are the indices: the time alone would be searched row by row.
    if chosen.min_created_at is not None:
        yield executions.c.id >= lowest_id(_moved(chosen.min_created_at, -_ID_MARGIN))
    if chosen.max_created_at is not None:
        yield executions.c.id < lowest_id(_moved(chosen.max_created_at, _ID_MARGIN))


def _between(column: Column[datetime], least: datetime | None, below: datetime | None) -> Iterator[ColumnElement[bool]]:
    if least is not None:
        yield column >= least
    if below is not None:
        yield column < below


def _moved(moment: datetime, by: timedelta) -> datetime:
    try:
        return moment + by
    except OverflowError:
        return moment
