"""One call at an agent: a message that is sent once, and the task that it becomes, followed to its end."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

import grpc
from a2a.types import a2a_pb2 as pb

from services.common.backoff import Backoff
from services.common.clock import utc_now
from services.common.errors import PermissionDenied
from services.common.grpc.large_messages import beside_if_large
from services.orchestrator.tool_gateway.adapters.a2a.client import AgentClient, UnreadableAnswer
from services.orchestrator.tool_gateway.adapters.a2a.messages import (
    AgentQuestion,
    StreamEvent,
    message_result,
    question_of,
    status_key,
    stream_event,
    task_result,
)
from services.orchestrator.tool_gateway.adapters.a2a.sent_message import SentMessage, is_task_id
from services.orchestrator.tool_gateway.adapters.foreign import shown
from services.orchestrator.tool_gateway.adapters.forms import AsksForSecret, BadQuestion
from services.orchestrator.tool_gateway.adapters.grpc_peer.channels import PeerUnreachable
from services.orchestrator.tool_gateway.adapters.grpc_peer.client import MAX_ERROR_BYTES
from services.orchestrator.tool_gateway.adapters.grpc_peer.statuses import REFUSALS, retry_after
from services.orchestrator.tool_gateway.ports import (
    CallProgress,
    CallRefused,
    CredentialExpired,
    NotSent,
    OutcomeUnknown,
    ToolResult,
)

_MAX_ROUNDS = 32
_MAX_EVENTS = 100_000
_QUICK_CALL_SECONDS = 20.0
_QUIET_SECONDS = 10.0
"""Without an event of a stream, after which the task is read: an agent may work for long without a word."""
_POLLS = Backoff(0.5, 15.0)
_LOOK_UP = Backoff(0.25, 5.0)
_LIST_PAGE = 50
_MAX_LIST_PAGES = 4
_CLOCKS_DIFFER = timedelta(minutes=10)
_LOOKS = 3
"""How often a task is looked for that is not there: a message that was cut may still arrive."""

Code = grpc.StatusCode
_ENDED = frozenset(
    {pb.TASK_STATE_COMPLETED, pb.TASK_STATE_FAILED, pb.TASK_STATE_CANCELED, pb.TASK_STATE_REJECTED}
)  # fmt: skip
_INTERRUPTED = frozenset({pb.TASK_STATE_INPUT_REQUIRED, pb.TASK_STATE_AUTH_REQUIRED})
_GOES_ON = frozenset({pb.TASK_STATE_SUBMITTED, pb.TASK_STATE_WORKING})
# With these, asking again does not help.
_CANNOT_BE_ASKED = {*REFUSALS, Code.UNAUTHENTICATED, Code.OUT_OF_RANGE, Code.DATA_LOSS}
_NO_CONNECTION = (PeerUnreachable, PermissionDenied, CallRefused, NotSent)
_TOO_LARGE = "larger than max"
"""In the text of the status by which gRPC itself refuses a message."""


@dataclass(frozen=True, slots=True)
class CallOrder:
    """What is sent to an agent."""

    sent: SentMessage
    parts: tuple[pb.Part, ...]
    skill: str
    """Id of the skill that is called; empty for an agent without skills."""
    max_timeout: float
    """Seconds of the call in all."""
    streaming: bool = True
    """Whether the task may be followed by a stream."""


class _TooLarge(Exception):
    """An answer has more bytes than are read."""


class AgentCall:
    """Sends the message of a call, follows its task, and asks people what the agent asks."""

    def __init__(
        self, client: AgentClient, order: CallOrder, progress: CallProgress, *, look_up_seconds: float
    ) -> None:
        """`look_up_seconds` is how long an agent that does not answer is asked about a task."""
        self._client = client
        self._order = order
        self._known = order.sent
        self._progress = progress
        self._look_up_seconds = look_up_seconds
        self._streaming = order.streaming
        self._is_sent = False
        self._answered = ""
        """Key of the status that the last answer was for."""
        self._refused = ""
        """Why the agent did not take it."""
        self._waits = 0

    @property
    def goes_on(self) -> bool:
        """See `CallProgress`."""
        return self._progress.goes_on

    @property
    def sent(self) -> bool:
        """Whether the agent may know the call."""
        return self._is_sent

    async def run(self) -> ToolResult:
        """Send the message, and return what comes of it.

        Raises:
            NotSent, OutcomeUnknown, CallRefused, StillAsked: see the ports.
        """
        found = await self._send()
        if isinstance(found, ToolResult):
            return found
        return await self._followed(found)

    async def resume(self) -> ToolResult:
        """Return what comes of a message that was sent before.

        Raises:
            NotSent, OutcomeUnknown, CallRefused, StillAsked: see the ports.
        """
        self._is_sent = True
        if not self._known.task_id:
            await self._find("the connection was lost before it answered")
        try:
            task = await self._task()
        except _TooLarge:
            return self._too_large()
        return await self._followed(task)

    async def cancel(self) -> None:
        """Cancel the task, as far as the agent lets it be."""
        with contextlib.suppress(grpc.aio.AioRpcError, UnreadableAnswer, OutcomeUnknown, *_NO_CONNECTION):
            if not self._known.task_id:
                await self._find("the call was cancelled")
            request = pb.CancelTaskRequest(tenant=self._client.tenant, id=self._known.task_id)
            await self._client.ask("CancelTask", request, pb.Task, timeout=_QUICK_CALL_SECONDS)

    # ---- the first message

    async def _send(self) -> ToolResult | pb.Task:
        order = self._order
        message = pb.Message(message_id=self._known.message_id, role=pb.ROLE_USER, parts=order.parts)
        request = self._send_request(message)
        if order.skill:
            request.metadata.update({"skill": order.skill})
        try:
            response = await self._deliver(request, first=True)
        except PeerUnreachable as error:
            raise NotSent(f"{self._client.name}: {error}") from None
        except PermissionDenied as error:
            raise CallRefused(error.message, reason=error.reason) from None
        except grpc.aio.AioRpcError as error:
            if _is_too_large(error):
                return self._too_large()
            self._raise_refusal(error)
            seen = f"the call ended with {error.code().name}: {self._client.peer.text_of(error)}"
        except UnreadableAnswer as error:
            seen = str(error)
        else:
            return await self._taken(response)
        await self._find(seen)
        try:
            return await self._task()
        except _TooLarge:
            return self._too_large()

    async def _taken(self, response: pb.SendMessageResponse) -> ToolResult | pb.Task:
        match response.WhichOneof("payload"):
            case "message":
                return await beside_if_large(
                    response.ByteSize(), message_result, response.message, self._client.peer.hide
                )
            case "task" if is_task_id(response.task.id):
                await self._know(response.task.id)
                return response.task
            case "task":
                raise OutcomeUnknown(f"{self._client.name} made a task without an id by which it is found", final=True)
            case _:
                raise OutcomeUnknown(f"{self._client.name} answered with neither a task nor a message", final=True)

    async def _deliver(self, request: pb.SendMessageRequest, *, first: bool = False) -> pb.SendMessageResponse:
        return await self._client.ask(
            "SendMessage",
            request,
            pb.SendMessageResponse,
            timeout=self._order.max_timeout,
            before=self._before_sending if first else None,
        )

    async def _before_sending(self) -> None:
        # Kept before anything leaves: after a crash the task is looked for, and the message is not sent again.
        self._known = replace(self._known, sent_at=utc_now())
        await self._progress.handle(self._known.handle())
        await self._progress.sent()
        self._is_sent = True

    async def _know(self, task_id: str) -> None:
        self._known = replace(self._known, task_id=task_id)
        await self._progress.handle(self._known.handle())

    def _send_request(self, message: pb.Message) -> pb.SendMessageRequest:
        # The task is followed on its own: a call that waits for its end could be cut before its id is known.
        configuration = pb.SendMessageConfiguration(return_immediately=True, history_length=0)
        return pb.SendMessageRequest(tenant=self._client.tenant, message=message, configuration=configuration)

    def _raise_refusal(self, error: grpc.aio.AioRpcError) -> None:
        """Raise what a status means that says that the message was not taken; return if it says nothing certain."""
        code = error.code()
        text = f"{self._client.name} refused the call: {self._client.peer.text_of(error)}"
        if code is Code.RESOURCE_EXHAUSTED and (seconds := retry_after(error)) is not None:
            raise NotSent(text, reason="TOOL_RATE_LIMITED", retry_after=seconds) from None
        if code is Code.UNAUTHENTICATED:
            raise CallRefused(text, reason="UPSTREAM_CREDENTIAL_REJECTED") from None
        if code in REFUSALS:
            raise CallRefused(text, reason=REFUSALS[code]) from None

    async def _find(self, seen: str) -> None:
        """Look for the task of a message that was sent, by its id.

        Raises:
            OutcomeUnknown: the agent does not show it.
        """
        seen = f"{self._client.name}: {seen}"
        for look in range(1, _LOOKS + 1):
            try:
                task_id = await self._found()
            except CredentialExpired:
                raise
            except (grpc.aio.AioRpcError, UnreadableAnswer, *_NO_CONNECTION) as error:
                useless = isinstance(error, UnreadableAnswer) or (
                    isinstance(error, grpc.aio.AioRpcError) and error.code() in _CANNOT_BE_ASKED
                )
                if useless or look == _LOOKS:
                    raise OutcomeUnknown(
                        f"{seen}; it cannot be asked whether it made a task of the message", final=useless
                    ) from None
                task_id = ""
            if task_id:
                return await self._know(task_id)
            await asyncio.sleep(_LOOK_UP.pause(look))
        raise OutcomeUnknown(f"{seen}; it shows no task of the message, which may have been lost", final=True)

    async def _found(self) -> str:
        """Return the id of the task whose history has the message; empty if there is none."""
        request = pb.ListTasksRequest(tenant=self._client.tenant, page_size=_LIST_PAGE)
        request.status_timestamp_after.FromDatetime(self._known.sent_at - _CLOCKS_DIFFER)
        for _ in range(_MAX_LIST_PAGES):
            page = await self._client.ask("ListTasks", request, pb.ListTasksResponse, timeout=_QUICK_CALL_SECONDS)
            for task in page.tasks:
                said = (one.message_id for one in task.history if one.role == pb.ROLE_USER)
                if self._known.message_id in said and is_task_id(task.id):
                    return task.id
            if not page.next_page_token or page.next_page_token == request.page_token:
                break
            request.page_token = page.next_page_token
        return ""

    # ---- its task

    async def _followed(self, task: pb.Task) -> ToolResult:
        try:
            return await self._follow(task)
        except _TooLarge:
            return self._too_large()

    async def _follow(self, task: pb.Task) -> ToolResult:
        rounds = 0
        while True:
            status = task.status
            if status.state in _ENDED:
                return await beside_if_large(task.ByteSize(), task_result, task, self._client.peer.hide)
            if status.state in _INTERRUPTED and (status_key(status) != self._answered or self._refused):
                rounds += 1
                if rounds > _MAX_ROUNDS:
                    await self.cancel()
                    raise OutcomeUnknown(f"{self._client.name} asked more than {_MAX_ROUNDS} times", final=True)
                if (end := await self._answer(task)) is not None:
                    return end
            elif status.state in _GOES_ON | _INTERRUPTED:
                await self._wait(status.state)
            else:
                raise OutcomeUnknown(
                    f"{self._client.name} says that its task is in the state {status.state}, which A2A 1.0 does not "
                    "have",
                    final=True,
                )
            task = await self._task()

    async def _wait(self, state: int) -> None:
        """Return when the task may stand otherwise than in a state."""
        self._waits += 1
        if self._streaming:
            request = pb.SubscribeToTaskRequest(tenant=self._client.tenant, id=self._known.task_id)
            try:
                async with self._client.stream("SubscribeToTask", request, timeout=self._order.max_timeout) as stream:
                    for _ in range(_MAX_EVENTS):
                        try:
                            response = await stream.read(pb.StreamResponse, within=_QUIET_SECONDS)
                        except TimeoutError:
                            if (await self._task()).status.state != state:
                                return
                            continue
                        if response is None:
                            break
                        event = stream_event(response)
                        if event.task_id != self._known.task_id:
                            # It is of no use: what is asked for is read.
                            self._streaming = False
                            break
                        self._waits = 1
                        await self._tell(event)
                        if event.state not in (None, state):
                            return
                    else:
                        self._streaming = False
            except CredentialExpired:
                raise
            except grpc.aio.AioRpcError as error:
                self._streaming = error.code() not in {Code.UNIMPLEMENTED, Code.RESOURCE_EXHAUSTED}
            except UnreadableAnswer:
                self._streaming = False
            except _NO_CONNECTION:
                pass
        await asyncio.sleep(_POLLS.pause(self._waits))

    async def _tell(self, event: StreamEvent) -> None:
        await self._progress.progress(shown(self._client.peer.hide(event.text), MAX_ERROR_BYTES), None)

    async def _task(self) -> pb.Task:
        """Read the task, which is a sign of it.

        Raises:
            OutcomeUnknown: the agent does not say how it stands. _TooLarge: more bytes than are read.
        """
        loop = asyncio.get_running_loop()
        request = pb.GetTaskRequest(tenant=self._client.tenant, id=self._known.task_id, history_length=0)
        began, attempt = loop.time(), 0
        while True:
            try:
                task = await self._client.ask("GetTask", request, pb.Task, timeout=_QUICK_CALL_SECONDS)
            except CredentialExpired:
                raise
            except (grpc.aio.AioRpcError, UnreadableAnswer, *_NO_CONNECTION) as error:
                self._raise_if_useless(error)
                if loop.time() - began > self._look_up_seconds:
                    raise OutcomeUnknown(f"{self._client.name} does not answer how its task stands") from None
                attempt += 1
                await asyncio.sleep(_LOOK_UP.pause(attempt))
                continue
            if task.id != self._known.task_id:
                raise OutcomeUnknown(f"{self._client.name} answered with another task than the call's", final=True)
            await self._progress.progress("", None)
            return task

    def _raise_if_useless(self, error: Exception) -> None:
        name = self._client.name
        if isinstance(error, UnreadableAnswer):
            raise OutcomeUnknown(f"{name}: {error}", final=True) from None
        if isinstance(error, PermissionDenied | CallRefused):
            raise OutcomeUnknown(f"{name} cannot be asked how its task stands: {error}") from None
        if not isinstance(error, grpc.aio.AioRpcError):
            return
        if _is_too_large(error):
            raise _TooLarge from None
        if error.code() is Code.NOT_FOUND:
            raise OutcomeUnknown(f"{name} does not know the task of the call any more", final=True) from None
        if error.code() in _CANNOT_BE_ASKED:
            text = self._client.peer.text_of(error)
            raise OutcomeUnknown(
                f"{name} refuses to say how its task stands: {error.code().name}: {text}", final=True
            ) from None

    def _too_large(self) -> ToolResult:
        return ToolResult(
            f"The agent {self._client.name} was sent the message, and what its task holds is larger than is read here. "
            "Do not send it again.",
            is_error=True,
        )

    # ---- its questions

    async def _answer(self, task: pb.Task) -> ToolResult | None:
        """Ask a person what the task waits for, and tell the agent; return a result where that ends the call."""
        refused, self._refused = self._refused, ""
        try:
            asked = question_of(task.status, self._client.peer.hide, refused=refused)
        except AsksForSecret as error:
            return await self._given_up(f'it asked for a secret ("{error}") in a form, which nobody is asked for')
        except BadQuestion as error:
            return await self._given_up(f"it asked what cannot be asked: {error}")
        answer = await self._progress.ask(asked.question, durable=True)
        if answer.action != "accept":
            return await self._given_up(f"nobody answered what it asked ({answer.action}): {asked.question.text}")
        self._answered = asked.key
        fault = await self._follow_up(task, asked, answer.content)
        if fault and status_key((await self._task()).status) == asked.key:
            return await self._given_up(f"it refused the answer: {fault}")
        return None

    async def _follow_up(self, task: pb.Task, asked: AgentQuestion, content: Mapping[str, object]) -> str:
        """Send an answer, and return why the agent refused it; empty if it did not.

        What comes of it shows in the task. A message that was cut is sent again under its id.
        """
        message = pb.Message(
            message_id=f"{self._known.message_id}-{asked.key[:16]}",
            task_id=task.id,
            context_id=task.context_id,
            role=pb.ROLE_USER,
            parts=[asked.answer(content)],
        )
        try:
            await self._deliver(self._send_request(message))
        except CredentialExpired:
            raise
        except grpc.aio.AioRpcError as error:
            if error.code() is Code.INVALID_ARGUMENT:
                self._refused = self._client.peer.text_of(error) or "it did not say why"
                return ""
            if error.code() in REFUSALS:
                return self._client.peer.text_of(error) or error.code().name
            await self._answer_again()
        except _NO_CONNECTION:
            await self._answer_again()
        except UnreadableAnswer:
            pass
        return ""

    async def _answer_again(self) -> None:
        # Perhaps it did not arrive.
        self._answered = ""
        await asyncio.sleep(_LOOK_UP.pause(1))

    async def _given_up(self, why: str) -> ToolResult:
        """Cancel the task, and say why; unless it has ended with a result meanwhile."""
        await self.cancel()
        task = await self._task()
        if task.status.state == pb.TASK_STATE_COMPLETED:
            return await beside_if_large(task.ByteSize(), task_result, task, self._client.peer.hide)
        return ToolResult(f"The task at the agent {self._client.name} was cancelled: {why}", is_error=True)


def _is_too_large(error: grpc.aio.AioRpcError) -> bool:
    return error.code() is Code.RESOURCE_EXHAUSTED and _TOO_LARGE in (error.details() or "").lower()
