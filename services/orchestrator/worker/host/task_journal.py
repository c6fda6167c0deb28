"""What has been answered to one attempt at a task, and to those before it."""

from dataclasses import dataclass, field

from services.common.tracing.spans import NO_SPAN, Span
from services.orchestrator.domain.execution import PLAN_INDEX
from services.orchestrator.repositories.journal import ToolCall
from services.orchestrator.worker.host.recorder import TaskRef


@dataclass(slots=True)
class TaskJournal:
    """`journaled_responses` are those of models, by the hash of their request and its occurrence; `tool_calls` goes by
    the calls' keys. Which occurrence a request is, the crew process knows: it sees agents start over.
    """

    task: TaskRef
    fails_if_cut_off: bool = False
    """Whether an answer that ends at the largest number of tokens is of no use."""
    salt: str = ""
    """Makes the requests of a task that a person has declined differ from those before."""
    journaled_responses: dict[tuple[str, int], bytes] = field(default_factory=dict)
    tool_calls: dict[str, ToolCall] = field(default_factory=dict)
    span: Span = NO_SPAN
    """What traces show of the attempt: calls of the crew process are recorded below it."""

    @property
    def index(self) -> int:
        """The task's position in the crew, PLAN_INDEX for the crew's plan."""
        return PLAN_INDEX if self.task.task_index is None else self.task.task_index
