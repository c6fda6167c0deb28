"""One call at an agent: a message that is sent once, and the task that it becomes, followed to its end."""

from a2a.types import a2a_pb2 as pb

from services.orchestrator.tool_gateway.adapters.a2a.client import AgentClient
from services.orchestrator.tool_gateway.adapters.a2a.failures import TooLarge, too_large
from services.orchestrator.tool_gateway.adapters.a2a.first_message import CallOrder, FirstMessage
from services.orchestrator.tool_gateway.adapters.a2a.task import AgentTask
from services.orchestrator.tool_gateway.adapters.a2a.task_follower import TaskFollower
from services.orchestrator.tool_gateway.adapters.a2a.task_questions import TaskQuestions
from services.orchestrator.tool_gateway.ports import CallProgress, CredentialExpired, OutcomeUnknown, ToolResult


class AgentCall:
    """Sends the message of a call, follows its task, and asks people what the agent asks."""

    def __init__(
        self, client: AgentClient, order: CallOrder, progress: CallProgress, *, look_up_seconds: float
    ) -> None:
        """`look_up_seconds` is how long an agent that does not answer is asked about a task."""
        self._client = client
        self._order = order
        self._progress = progress
        self._look_up_seconds = look_up_seconds
        self._message = FirstMessage(client, order, progress)

    @property
    def goes_on(self) -> bool:
        """See `CallProgress`."""
        return self._progress.goes_on

    @property
    def sent(self) -> bool:
        """Whether the agent may know the call."""
        return self._message.is_sent

    async def run(self) -> ToolResult:
        """Send the message, and return what comes of it.

        Raises:
            NotSent, OutcomeUnknown, CallRefused, StillAsked: see the ports.
        """
        try:
            found = await self._message.send()
            return found if isinstance(found, ToolResult) else await self._followed(found)
        except TooLarge:
            return too_large(self._client.name)

    async def resume(self) -> ToolResult:
        """Return what comes of a message that was sent before.

        Raises:
            NotSent, OutcomeUnknown, CallRefused, StillAsked: see the ports.
        """
        self._message.is_sent = True
        if not self._message.known.task_id:
            await self._message.find("the connection was lost before it answered")
        try:
            return await self._followed(None)
        except TooLarge:
            return too_large(self._client.name)

    async def cancel(self) -> None:
        """Cancel the task, as far as the agent lets it be."""
        if not self._message.known.task_id:
            try:
                await self._message.find("the call was cancelled")
            except (OutcomeUnknown, CredentialExpired):
                return
        await self._task().cancel()

    async def _followed(self, task: pb.Task | None) -> ToolResult:
        """Follow the task to its end; None: as it is read now."""
        order, followed = self._order, self._task()
        questions = TaskQuestions(
            self._client, followed, self._progress, self._message.known, timeout=order.max_timeout
        )
        follower = TaskFollower(
            self._client, followed, questions, self._progress, streaming=order.streaming, timeout=order.max_timeout
        )
        return await follower.follow(await questions.settled(await followed.read()) if task is None else task)

    def _task(self) -> AgentTask:
        task_id = self._message.known.task_id
        return AgentTask(self._client, task_id, self._progress, look_up_seconds=self._look_up_seconds)
