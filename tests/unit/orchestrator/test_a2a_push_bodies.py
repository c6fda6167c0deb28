"""What is posted of a task to receivers of A2A 0.3 has a largest size."""

import json
from datetime import UTC, datetime

import pytest
from a2a.types import a2a_pb2

from services.orchestrator.domain.a2a import TaskMessage, TaskRow, TaskState
from services.orchestrator.domain.execution import TaskOutput
from services.orchestrator.servicers.a2a.version_03.push import MAX_TASK_BYTES, task_body
from services.orchestrator.usecases.a2a.views import ResultArtifact, TaskView

_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_ROW = TaskRow("task", "sales", "brief", "crew", 1, "context", _NOW, "ann")


def body_of(*, said: int, result: int) -> bytes:
    message = a2a_pb2.Message(message_id="m", parts=[a2a_pb2.Part(text="x" * said)])
    output = TaskOutput("y" * result)
    view = TaskView(
        _ROW,
        TaskState.COMPLETED,
        history=[TaskMessage(0, message.SerializeToString(), _NOW)],
        results=[ResultArtifact("result", "brief", output, markdown=False)],
    )
    return task_body(view)


@pytest.mark.parametrize(
    ("said", "result", "left_out"),
    [
        pytest.param(1, 1, None, id="small"),
        pytest.param(MAX_TASK_BYTES, 1, ["history"], id="much said"),
        pytest.param(1, MAX_TASK_BYTES, ["history", "artifacts"], id="a large result"),
    ],
)
def test_what_is_too_large_is_left_out_and_named(said: int, result: int, left_out: list[str] | None) -> None:
    body = body_of(said=said, result=result)
    assert len(body) <= MAX_TASK_BYTES
    document = json.loads(body)
    assert (document["id"], document["status"]["state"]) == ("task", "completed")
    assert document["metadata"].get("coxswain/left_out") == left_out
    assert {"history", "artifacts"} - document.keys() == set(left_out or ())
