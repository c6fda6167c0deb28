"""What a run knows of its execution: its crew, how far each task has come, and what was used."""

from dataclasses import dataclass

from services.orchestrator.domain.execution import PLAN_INDEX, TaskOutput, TaskRun, TaskState
from services.orchestrator.domain.question import Question, QuestionState
from services.orchestrator.domain.task_order import fill_in_models
from services.orchestrator.worker.host.recorder import TaskRef
from services.orchestrator.worker.host.run_store import Claim
from services.orchestrator.worker.host.usage_total import UsageTotal


@dataclass(slots=True)
class TaskProgress:
    """How far a task has come; the making of the crew's plan counts as one, at PLAN_INDEX."""

    index: int
    name: str
    state: TaskState
    attempt: int
    """How often it was started."""
    output: TaskOutput | None
    question: Question | None = None
    """The newest one."""

    @property
    def is_plan(self) -> bool:
        """Whether this is the crew's plan."""
        return self.index == PLAN_INDEX

    @property
    def ref(self) -> TaskRef:
        """What events of the present attempt refer to."""
        return TaskRef(None if self.is_plan else self.index, self.name, self.attempt)

    @property
    def declined(self) -> Question | None:
        """The question that a person has declined, if the task is to be done again for it."""
        return self.question if self.question and self.question.state is QuestionState.DECLINED else None


class RunState:
    """One claimed execution as its run knows it. The rows say the same once what the recorder holds is stored."""

    def __init__(self, claim: Claim, default_model: str) -> None:
        self.execution = claim.execution
        self.document = claim.spec
        """The crew as it was written."""
        self.spec = fill_in_models(claim.spec, default=default_model, override=claim.execution.model)
        """The crew with the name of a model wherever one is called."""
        runs = {run.task_index: run for run in claim.tasks}
        self.tasks = [_progress(runs[index], claim.questions.get(index)) for index in range(len(claim.spec.tasks))]
        """In the crew's order."""
        self.plan = (
            _progress(runs[PLAN_INDEX], None)
            if PLAN_INDEX in runs
            else TaskProgress(PLAN_INDEX, "", TaskState.PENDING, attempt=0, output=None)
        )
        self.usage = UsageTotal(claim.execution.usage, claim.execution.limits, claim.execution.used_before)

    @property
    def all_done(self) -> bool:
        """Whether every task has its result or was skipped."""
        return all(task.state.done for task in self.tasks)

    @property
    def result(self) -> TaskOutput | None:
        """The result of the last task that was done."""
        return next((task.output for task in reversed(self.tasks) if task.output is not None), None)


def _progress(run: TaskRun, question: Question | None) -> TaskProgress:
    # What was at work when the last claim ended starts again.
    state = TaskState.PENDING if run.state is TaskState.RUNNING else run.state
    return TaskProgress(run.task_index, run.name, state, run.attempt, run.output, question)
