"""A task at an agent: how it stands, and its end."""

import asyncio
import contextlib

import grpc
from a2a.types import a2a_pb2 as pb

from services.common.backoff import Backoff
from services.common.errors import PermissionDenied
from services.common.grpc.large_messages import beside_if_large
from services.orchestrator.tool_gateway.adapters.a2a.client import QUICK_CALL_SECONDS, AgentClient, UnreadableAnswer
from services.orchestrator.tool_gateway.adapters.a2a.failures import (
    CANNOT_BE_ASKED,
    NO_CONNECTION,
    Code,
    TooLarge,
    answer_is_too_large,
)
from services.orchestrator.tool_gateway.adapters.a2a.messages import task_result
from services.orchestrator.tool_gateway.ports import (
    CallProgress,
    CallRefused,
    CredentialExpired,
    OutcomeUnknown,
    ToolResult,
)

_PAUSES = Backoff(0.25, 5.0)

ENDED = frozenset(
    {pb.TASK_STATE_COMPLETED, pb.TASK_STATE_FAILED, pb.TASK_STATE_CANCELED, pb.TASK_STATE_REJECTED}
)  # fmt: skip
INTERRUPTED = frozenset({pb.TASK_STATE_INPUT_REQUIRED, pb.TASK_STATE_AUTH_REQUIRED})
GOES_ON = frozenset({pb.TASK_STATE_SUBMITTED, pb.TASK_STATE_WORKING})


class AgentTask:
    """Reads and cancels one task."""

    def __init__(self, client: AgentClient, task_id: str, progress: CallProgress, *, look_up_seconds: float) -> None:
        """`look_up_seconds` is how long an agent that does not answer is asked about it."""
        self.id = task_id
        self._client = client
        self._progress = progress
        self._look_up_seconds = look_up_seconds

    async def read(self) -> pb.Task:
        """Return how it stands, which is a sign of it.

        Raises:
            OutcomeUnknown: the agent does not say so. TooLarge: more bytes than are read.
        """
        loop = asyncio.get_running_loop()
        request = pb.GetTaskRequest(tenant=self._client.tenant, id=self.id, history_length=0)
        began, attempt = loop.time(), 0
        while True:
            try:
                task = await self._client.ask("GetTask", request, pb.Task, timeout=QUICK_CALL_SECONDS)
            except CredentialExpired:
                raise
            except (grpc.aio.AioRpcError, UnreadableAnswer, *NO_CONNECTION) as error:
                self._raise_if_useless(error)
                if loop.time() - began > self._look_up_seconds:
                    raise OutcomeUnknown(f"{self._client.name} does not answer how its task stands") from None
                attempt += 1
                await asyncio.sleep(_PAUSES.pause(attempt))
                continue
            if task.id != self.id:
                raise OutcomeUnknown(f"{self._client.name} answered with another task than the call's", final=True)
            await self._progress.progress("", None)
            return task

    async def cancel(self) -> None:
        """Cancel it, as far as the agent lets it be."""
        with contextlib.suppress(grpc.aio.AioRpcError, UnreadableAnswer, OutcomeUnknown, *NO_CONNECTION):
            request = pb.CancelTaskRequest(tenant=self._client.tenant, id=self.id)
            await self._client.ask("CancelTask", request, pb.Task, timeout=QUICK_CALL_SECONDS)

    async def give_up(self, why: str) -> ToolResult:
        """Cancel it, and return what the model is told: its result if it has ended with one meanwhile."""
        await self.cancel()
        task = await self.read()
        state, name = task.status.state, self._client.name
        if state in ENDED and state != pb.TASK_STATE_CANCELED:
            return await self.result(task)
        if state == pb.TASK_STATE_CANCELED:
            return ToolResult(f"The task at the agent {name} was cancelled: {why}", is_error=True)
        return ToolResult(
            f"The agent {name} was asked to cancel its task and has not done so: the task may still go on. Do not send "
            f"the message again. It was to be cancelled, since {why}",
            is_error=True,
        )

    async def result(self, task: pb.Task) -> ToolResult:
        """Return what has come of it, as it was read when it had ended."""
        return await beside_if_large(task.ByteSize(), task_result, task, self._client.peer.hide)

    def _raise_if_useless(self, error: Exception) -> None:
        name = self._client.name
        if isinstance(error, UnreadableAnswer):
            raise OutcomeUnknown(f"{name}: {error}", final=True) from None
        if isinstance(error, PermissionDenied | CallRefused):
            raise OutcomeUnknown(f"{name} cannot be asked how its task stands: {error}") from None
        if not isinstance(error, grpc.aio.AioRpcError):
            return
        if answer_is_too_large(error):
            raise TooLarge from None
        if error.code() is Code.NOT_FOUND:
            raise OutcomeUnknown(f"{name} does not know the task of the call any more", final=True) from None
        if error.code() in CANNOT_BE_ASKED:
            text = self._client.peer.text_of(error)
            raise OutcomeUnknown(
                f"{name} refuses to say how its task stands: {error.code().name}: {text}", final=True
            ) from None
