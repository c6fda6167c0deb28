"""Follows a task to its end, by a stream of its events where the agent has one."""

import asyncio

import grpc
from a2a.types import a2a_pb2 as pb

from services.common.backoff import Backoff
from services.common.grpc.large_messages import beside_if_large
from services.orchestrator.tool_gateway.adapters.a2a.client import AgentClient, UnreadableAnswer
from services.orchestrator.tool_gateway.adapters.a2a.failures import NO_CONNECTION, Code
from services.orchestrator.tool_gateway.adapters.a2a.messages import StreamEvent, status_key, stream_event
from services.orchestrator.tool_gateway.adapters.a2a.task import ENDED, GOES_ON, INTERRUPTED, AgentTask
from services.orchestrator.tool_gateway.adapters.a2a.task_questions import TaskQuestions
from services.orchestrator.tool_gateway.adapters.foreign import shown
from services.orchestrator.tool_gateway.adapters.grpc_peer.client import MAX_ERROR_BYTES
from services.orchestrator.tool_gateway.ports import CallProgress, CredentialExpired, OutcomeUnknown, ToolResult

_MAX_EVENTS = 100_000
_QUIET_SECONDS = 10.0
"""Without an event of a stream, after which the task is read: an agent may work for long without a word."""
_POLLS = Backoff(0.5, 15.0)


class TaskFollower:
    """Follows one task."""

    def __init__(
        self,
        client: AgentClient,
        task: AgentTask,
        questions: TaskQuestions,
        progress: CallProgress,
        *,
        streaming: bool,
        timeout: float,
    ) -> None:
        """`timeout` are the seconds that a stream may take."""
        self._client = client
        self._task = task
        self._questions = questions
        self._progress = progress
        self._streaming = streaming
        self._timeout = timeout
        self._waits = 0
        self._told_otherwise: pb.TaskStatus | None = None
        """How the task stood when the stream last told that it stands otherwise."""

    async def follow(self, task: pb.Task) -> ToolResult:
        """Return the result of the task, which was read as `task`.

        Raises:
            OutcomeUnknown, StillAsked: see the ports. TooLarge: more bytes than are read.
        """
        while True:
            status = task.status
            self._questions.saw(status.state)
            if status.state in ENDED:
                return await self._task.result(task)
            if status.state in INTERRUPTED and not self._questions.is_answered(status):
                if (end := await self._questions.answer(task)) is not None:
                    return end
            elif status.state in GOES_ON | INTERRUPTED:
                await self._wait(status)
            else:
                raise OutcomeUnknown(
                    f"{self._client.name} says that its task is in the state {status.state}, which A2A does not have",
                    final=True,
                )
            task = await self._task.read()

    async def _wait(self, status: pb.TaskStatus) -> None:
        """Return when the task may stand otherwise than it did."""
        self._waits += 1
        before, self._told_otherwise = self._told_otherwise, None
        contradicted = before is not None and not _differs(status, before)
        if contradicted:
            # What is read does not bear the stream out: neither is asked again at once.
            await asyncio.sleep(_POLLS.pause(self._waits))
        if self._streaming:
            request = pb.SubscribeToTaskRequest(tenant=self._client.tenant, id=self._task.id)
            try:
                async with self._client.stream(
                    "SubscribeToTask", request, pb.StreamResponse, timeout=self._timeout
                ) as stream:
                    for _ in range(_MAX_EVENTS):
                        try:
                            response = await stream.read(within=_QUIET_SECONDS)
                        except TimeoutError:
                            if _differs((await self._task.read()).status, status):
                                return
                            continue
                        if response is None:
                            break
                        event = stream_event(response)
                        if event.task_id != self._task.id:
                            # It is of no use: what is asked for is read.
                            self._streaming = False
                            break
                        if not contradicted:
                            self._waits = 1
                        await self._tell(event)
                        if event.status is not None and _differs(event.status, status):
                            self._questions.saw(event.status.state)
                            self._told_otherwise = status
                            return
                    else:
                        self._streaming = False
            except CredentialExpired:
                raise
            except grpc.aio.AioRpcError as error:
                self._streaming = error.code() not in {Code.UNIMPLEMENTED, Code.RESOURCE_EXHAUSTED}
            except UnreadableAnswer:
                self._streaming = False
            except NO_CONNECTION:
                pass
        await asyncio.sleep(_POLLS.pause(self._waits))

    async def _tell(self, event: StreamEvent) -> None:
        await self._progress.progress(await beside_if_large(len(event.text), self._shown, event.text), None)

    def _shown(self, text: str) -> str:
        return shown(self._client.peer.hide(text), MAX_ERROR_BYTES)


def _differs(now: pb.TaskStatus, before: pb.TaskStatus) -> bool:
    """Whether a task stands otherwise: in another state, or waiting for something else."""
    if now.state != before.state:
        return True
    return now.state in INTERRUPTED and status_key(now) != status_key(before)
