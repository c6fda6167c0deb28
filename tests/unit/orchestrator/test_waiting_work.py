"""Numbers of the whole installation are never older than they look."""

import math
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY

from services.common.errors import Unavailable
from services.orchestrator.usecases.waiting_work import WaitingWork

METRICS = ("coxswain_queue_depth", "coxswain_queue_oldest_seconds", "coxswain_queue_groups", "coxswain_worker_hosts")


class AwayDatabase:
    def read(self) -> AbstractAsyncContextManager[None]:
        raise Unavailable("the database does not answer")


async def test_what_cannot_be_counted_is_not_a_number() -> None:
    with pytest.raises(Unavailable):
        await WaitingWork(cast("Any", AwayDatabase()), cast("Any", None)).count()
    values = [REGISTRY.get_sample_value(name) for name in METRICS]
    values.append(REGISTRY.get_sample_value("coxswain_executions", {"state": "QUEUED"}))
    values.append(REGISTRY.get_sample_value("coxswain_questions_open", {"kind": "RESULT_APPROVAL"}))
    values.append(REGISTRY.get_sample_value("coxswain_webhook_oldest_seconds", {"waiting": "untried"}))
    assert [value is not None and math.isnan(value) for value in values] == [True] * len(values)
