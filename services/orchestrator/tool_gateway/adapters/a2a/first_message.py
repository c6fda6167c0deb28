"""The first message of a call, which is sent once, and the task that it has become."""

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta

import grpc
from a2a.types import a2a_pb2 as pb

from services.common.backoff import Backoff
from services.common.clock import utc_now
from services.common.errors import PermissionDenied
from services.common.grpc.large_messages import beside_if_large
from services.orchestrator.tool_gateway.adapters.a2a.client import QUICK_CALL_SECONDS, AgentClient, UnreadableAnswer
from services.orchestrator.tool_gateway.adapters.a2a.failures import (
    CANNOT_BE_ASKED,
    NO_CONNECTION,
    Code,
    TooLarge,
    answer_is_too_large,
    message_is_too_large,
)
from services.orchestrator.tool_gateway.adapters.a2a.messages import message_result
from services.orchestrator.tool_gateway.adapters.a2a.sent_message import SentMessage, is_task_id
from services.orchestrator.tool_gateway.adapters.grpc_peer.channels import PeerUnreachable
from services.orchestrator.tool_gateway.adapters.grpc_peer.statuses import REFUSALS, retry_after
from services.orchestrator.tool_gateway.ports import (
    CallProgress,
    CallRefused,
    CredentialExpired,
    NotSent,
    OutcomeUnknown,
    ToolResult,
)

_LOOK_UP = Backoff(0.25, 5.0)
_LIST_PAGE = 50
_MAX_LIST_PAGES = 4
_CLOCKS_DIFFER = timedelta(minutes=10)
_LOOKS = 3
"""How often a task is looked for that is not there: a message that was cut may still arrive."""


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


class FirstMessage:
    """Sends the first message of a call, or finds the task of one that was sent before."""

    def __init__(self, client: AgentClient, order: CallOrder, progress: CallProgress) -> None:
        self._client = client
        self._order = order
        self._progress = progress
        self.known = order.sent
        """What is known of the message."""
        self.is_sent = False
        """Whether the agent may know it."""

    async def send(self) -> ToolResult | pb.Task | None:
        """Send it, and return what comes of it: None for a task that has to be read.

        Raises:
            NotSent, OutcomeUnknown, CallRefused: see the ports. TooLarge: more bytes than are read.
        """
        message = pb.Message(message_id=self.known.message_id, role=pb.ROLE_USER, parts=self._order.parts)
        try:
            response = await self._client.send(
                message, skill=self._order.skill, timeout=self._order.max_timeout, before=self._before_sending
            )
        except PeerUnreachable as error:
            raise NotSent(f"{self._client.name}: {error}") from None
        except PermissionDenied as error:
            raise CallRefused(error.message, reason=error.reason) from None
        except grpc.aio.AioRpcError as error:
            if answer_is_too_large(error):
                raise TooLarge from None
            self._raise_refusal(error)
            seen = f"the call ended with {error.code().name}: {self._client.peer.text_of(error)}"
        except UnreadableAnswer as error:
            seen = str(error)
        else:
            return await self._taken(response)
        await self.find(seen)
        return None

    async def find(self, seen: str) -> None:
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
            except (grpc.aio.AioRpcError, UnreadableAnswer, *NO_CONNECTION) as error:
                useless = isinstance(error, UnreadableAnswer) or (
                    isinstance(error, grpc.aio.AioRpcError) and error.code() in CANNOT_BE_ASKED
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

    async def _before_sending(self) -> None:
        # Kept before anything leaves: after a crash the task is looked for, and the message is not sent again.
        self.known = replace(self.known, sent_at=utc_now())
        await self._progress.handle(self.known.handle())
        await self._progress.sent()
        self.is_sent = True

    async def _know(self, task_id: str) -> None:
        self.known = replace(self.known, task_id=task_id)
        await self._progress.handle(self.known.handle())

    def _raise_refusal(self, error: grpc.aio.AioRpcError) -> None:
        """Raise what a status means that says that the message was not taken; return if it says nothing certain."""
        code = error.code()
        text = f"{self._client.name} refused the call: {self._client.peer.text_of(error)}"
        if message_is_too_large(error):
            raise CallRefused(f"{text}; send less", reason="TOOL_ARGUMENTS") from None
        if code is Code.RESOURCE_EXHAUSTED and (seconds := retry_after(error)) is not None:
            raise NotSent(text, reason="TOOL_RATE_LIMITED", retry_after=seconds) from None
        if code is Code.UNAUTHENTICATED:
            raise CallRefused(text, reason="UPSTREAM_CREDENTIAL_REJECTED") from None
        if code in REFUSALS:
            raise CallRefused(text, reason=REFUSALS[code]) from None

    async def _found(self) -> str:
        """Return the id of the task whose history has the message; empty if there is none."""
        request = pb.ListTasksRequest(tenant=self._client.tenant, page_size=_LIST_PAGE)
        request.status_timestamp_after.FromDatetime(self.known.sent_at - _CLOCKS_DIFFER)
        for _ in range(_MAX_LIST_PAGES):
            page = await self._client.ask("ListTasks", request, pb.ListTasksResponse, timeout=QUICK_CALL_SECONDS)
            for task in page.tasks:
                said = (one.message_id for one in task.history if one.role == pb.ROLE_USER)
                if self.known.message_id in said and is_task_id(task.id):
                    return task.id
            if not page.next_page_token or page.next_page_token == request.page_token:
                break
            request.page_token = page.next_page_token
        return ""
