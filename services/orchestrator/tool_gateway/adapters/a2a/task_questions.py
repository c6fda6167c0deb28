"""What a task waits for: it is asked of people, and their answers are sent to the agent."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import grpc
from a2a.types import a2a_pb2 as pb

from services.common.backoff import Backoff
from services.common.grpc.large_messages import beside_if_large
from services.orchestrator.tool_gateway.adapters.a2a.client import AgentClient, UnreadableAnswer
from services.orchestrator.tool_gateway.adapters.a2a.failures import (
    CANNOT_BE_ASKED,
    NO_CONNECTION,
    Code,
    message_is_too_large,
)
from services.orchestrator.tool_gateway.adapters.a2a.messages import (
    MAX_STATUS_BYTES,
    AgentQuestion,
    question_of,
    status_key,
)
from services.orchestrator.tool_gateway.adapters.a2a.sent_message import SentMessage
from services.orchestrator.tool_gateway.adapters.a2a.task import GOES_ON, INTERRUPTED, AgentTask
from services.orchestrator.tool_gateway.adapters.forms import AsksForSecret, BadQuestion
from services.orchestrator.tool_gateway.adapters.grpc_peer.statuses import retry_after
from services.orchestrator.tool_gateway.ports import CallProgress, CredentialExpired, OutcomeUnknown, ToolResult

_MAX_ROUNDS = 32
_RESEND = Backoff(0.25, 15.0)
_MOST_SENDS = 5
"""Of one answer, where the agent's status does not say that it will pass."""
_PASSES = frozenset({Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED})
_STALE = Backoff(0.25, 4.0)
_STALE_SECONDS = 180.0
"""In which an agent may read an answer that it had before a crash: it is sent no other one meanwhile."""
_LOOK_SECONDS = 10.0
"""Between looks at a task while an answer waits to be sent again."""


class TaskQuestions:
    """Asks people what one task waits for, and tells the agent what they say."""

    def __init__(
        self, client: AgentClient, task: AgentTask, progress: CallProgress, sent: SentMessage, *, timeout: float
    ) -> None:
        """`sent` is the call's first message, and `timeout` in seconds that of sending an answer."""
        self._client = client
        self._task = task
        self._progress = progress
        self._sent = sent
        self._timeout = timeout
        self._answered = ""
        """Key of the status that the agent has an answer to, as long as the task stands there."""
        self._refused = ""
        """Why the agent did not take the last answer."""
        self._rounds = 0
        self._answers: Counter[str] = Counter(sent.answers)
        """How many answers the agent has had to each status, by its key: it may stand the same way twice."""

    def is_answered(self, status: pb.TaskStatus) -> bool:
        """Whether the agent has the answer to what an interrupted task waits for, and may not have read it yet."""
        return not self._refused and self._answered != "" and status_key(status) == self._answered

    def saw(self, state: int) -> None:
        """Note that the task is or was in a state: when it has gone on, whatever it waits for is another question."""
        if state in GOES_ON:
            self._answered = ""

    async def settled(self, task: pb.Task) -> pb.Task:
        """Return how the task stands: while it seems to wait for what was answered before a crash, it is read again.

        An agent may take a while to read the answer. What it still waits for after minutes is asked again.
        """
        last = self._sent.last_answered
        loop = asyncio.get_running_loop()
        end, attempt = loop.time() + _STALE_SECONDS, 0
        while task.status.state in INTERRUPTED and status_key(task.status) == last:
            if self._sent.refused or self._sent.asks_again:
                self._refused = self._sent.refused
                break
            if loop.time() > end:
                break
            attempt += 1
            await asyncio.sleep(_STALE.pause(attempt))
            task = await self._task.read()
        return task

    async def answer(self, task: pb.Task) -> ToolResult | None:
        """Ask a person what the task waits for, and tell the agent; return a result where that ends the call.

        Raises:
            OutcomeUnknown: it asks without an end.
        """
        self._rounds += 1
        if self._rounds > _MAX_ROUNDS:
            await self._task.cancel()
            raise OutcomeUnknown(f"{self._client.name} asked more than {_MAX_ROUNDS} times", final=True)
        refused, self._refused = self._refused, ""
        size = task.status.ByteSize()
        if size > MAX_STATUS_BYTES:
            return await self._task.give_up(f"it asked in more than {MAX_STATUS_BYTES} bytes")
        key = status_key(task.status)
        try:
            asked = await beside_if_large(
                size, question_of, task.status, self._client.peer.hide, refused=refused, answers=self._answers[key]
            )
        except AsksForSecret as error:
            return await self._task.give_up(f'it asked for a secret ("{error}"), which nobody is asked for')
        except BadQuestion as error:
            return await self._task.give_up(f"it asked what cannot be asked: {error}")
        if key == self._sent.last_answered and not refused:
            await self._keep(replace(self._sent, asks_again=True))
        answer = await self._progress.ask(asked.question, durable=True)
        if answer.action != "accept":
            return await self._task.give_up(f"nobody answered what it asked ({answer.action}): {asked.question.text}")
        fault = await self._send(task, key, asked, answer.content)
        if fault and status_key((await self._task.read()).status) == key:
            return await self._task.give_up(f"it refused the answer: {fault}")
        return None

    async def _send(self, task: pb.Task, key: str, asked: AgentQuestion, content: Mapping[str, object]) -> str:
        """Send an answer, and return why the agent refused it; empty if it did not.

        What comes of it shows in the task. As long as that stands as it did, an answer that may not have arrived is
        sent again, under its id.
        """
        count = self._answers[key]
        message = pb.Message(
            message_id=f"{self._sent.message_id}-{key[:16]}" + (f"-{count}" if count else ""),
            task_id=task.id,
            context_id=task.context_id,
            role=pb.ROLE_USER,
            parts=[asked.answer(content)],
        )
        self._answered = key
        attempt = 0
        while True:
            attempt += 1
            try:
                response = await self._client.send(message, timeout=self._timeout)
                # What is in it may be older than the answer: it counts only where it says that the task goes on.
                self.saw(response.task.status.state)
                break
            except CredentialExpired:
                raise
            except grpc.aio.AioRpcError as error:
                if _needs_another_answer(error, attempt):
                    self._refused = self._client.peer.text_of(error) or "it did not say why"
                    await self._count(key, refused=self._refused)
                    return ""
                if error.code() in CANNOT_BE_ASKED:
                    return self._client.peer.text_of(error) or error.code().name
                pause = _RESEND.pause(attempt, retry_after(error) or 0.0)
            except NO_CONNECTION:
                pause = _RESEND.pause(attempt)
            except UnreadableAnswer:
                break
            if not await self._stands_after(pause, key):
                break
        await self._count(key)
        return ""

    async def _count(self, key: str, *, refused: str = "") -> None:
        """Keep that the agent has had another answer: after a crash the next question is not taken for the same."""
        self._answers[key] += 1
        others = {name: count for name, count in self._answers.items() if name != key}
        answers = others | {key: self._answers[key]}
        await self._keep(replace(self._sent, answers=answers, refused=refused, asks_again=False))

    async def _keep(self, sent: SentMessage) -> None:
        if sent != self._sent:
            self._sent = sent
            await self._progress.handle(sent.handle())

    async def _stands_after(self, seconds: float, key: str) -> bool:
        """Wait, and return whether the task still waits for the same."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (left := end - loop.time()) > 0:
            await asyncio.sleep(min(left, _LOOK_SECONDS))
            if status_key((await self._task.read()).status) != key:
                return False
        return True


def _needs_another_answer(error: grpc.aio.AioRpcError, attempt: int) -> bool:
    """Whether an answer that was sent so many times will not be taken as it is."""
    code = error.code()
    if code is Code.INVALID_ARGUMENT or message_is_too_large(error):
        return True
    return attempt >= _MOST_SENDS and code not in CANNOT_BE_ASKED | _PASSES
