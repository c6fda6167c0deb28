"""Conditions of tasks: whether they are to be done."""

from coxswain.orchestrator.worker.link_pb2 import EarlierTask, EvaluateCondition
from services.common.grpc.json_values import from_struct
from services.orchestrator.expressions import BadExpression, Expression, NotEvaluated
from services.orchestrator.worker.crew.session import Session
from services.orchestrator.worker.link.errors import TaskError


def condition_holds(session: Session, index: int, request: EvaluateCondition) -> bool:
    """Return whether the condition of a task holds for the inputs and the tasks that have ended.

    Raises:
        TaskError: it cannot be evaluated.
    """
    condition = session.spec.tasks[index].condition
    known = {"inputs": session.inputs, "tasks": {task.name: _result(task) for task in request.tasks}}
    try:
        return Expression(condition).holds(known)
    except (BadExpression, NotEvaluated) as error:
        raise TaskError(
            "TASK_FAILED",
            f"the task's condition {condition!r} cannot be evaluated: {error}; has() asks whether a field is there",
            fatal=True,
        ) from error


def _result(task: EarlierTask) -> dict[str, object]:
    output = task.output
    return {
        "text": output.text,
        "structured": from_struct("structured", output.structured) if output.HasField("structured") else None,
        "skipped": not task.HasField("output"),
    }
