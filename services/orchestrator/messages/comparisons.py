"""Executions side by side: domain to messages."""

from coxswain.orchestrator.v1 import execution_pb2 as pb
from services.orchestrator.domain.comparison import ComparedTask, Comparison, InputComparison, TaskComparison
from services.orchestrator.messages.executions import execution_to_proto, task_run_to_proto


def comparison_to_proto(comparison: Comparison) -> pb.CompareExecutionsResponse:
    """Return a comparison as callers see it."""
    return pb.CompareExecutionsResponse(
        executions=map(execution_to_proto, comparison.executions),
        differing_fields=comparison.differing_fields,
        inputs=map(_input_to_proto, comparison.inputs),
        tasks=map(_task_to_proto, comparison.tasks.items),
        next_page_token=comparison.tasks.next_page_token,
    )


def _input_to_proto(compared: InputComparison) -> pb.InputComparison:
    return pb.InputComparison(
        name=compared.name, values=[pb.ComparedInput(value_json=value.text, cut=value.cut) for value in compared.values]
    )


def _task_to_proto(compared: TaskComparison) -> pb.TaskComparison:
    return pb.TaskComparison(
        task_name=compared.name,
        same_output=compared.same_output,
        same_definition=compared.same_definition,
        results=map(_result_to_proto, compared.results),
    )


def _result_to_proto(result: ComparedTask | None) -> pb.ComparedTask:
    return pb.ComparedTask() if result is None else pb.ComparedTask(task=task_run_to_proto(result.run), cut=result.cut)
