"""What is stored of calls, sealed."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter, ValidationError

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.identity.row_seal import RowSeal
from services.orchestrator.domain.gateway_call import CallKey, GatewayCall
from services.orchestrator.domain.tool_outcome import Outcome, Unknown
from services.orchestrator.repositories.gateway_calls import GatewayCallRepository
from services.orchestrator.tool_gateway.ports import SourceAnswer, SourceQuestion
from services.orchestrator.tool_gateway.usecases.call_board import Asked

_OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Outcome)
_NO_LONGER_KEPT = Unknown("the call ended, and its outcome is no longer kept")


class CallStore:
    """Rows of the calls that this process makes, and those of others. Every method raises Unavailable."""

    def __init__(self, database: Database, seal: RowSeal, replica: str, *, lease_seconds: float) -> None:
        """`replica` is the name of this process, which no other one has or had."""
        self._database = database
        self._seal = seal
        self.replica = replica
        self._lease = timedelta(seconds=lease_seconds)

    async def find(self, key: CallKey) -> GatewayCall | None:
        """Return what is known of a call; None: nothing of it was ever sent."""
        async with self._database.read() as connection:
            return await GatewayCallRepository(connection).find(key)

    async def claim(self, key: CallKey, execution_id: str, source: str, outcome: Outcome | None = None) -> bool:
        """Store that a call is about to be sent, or has this outcome; False if another process has stored it first."""
        now = utc_now()
        call = GatewayCall(
            key=key,
            execution_id=execution_id,
            source=source,
            sent_at=now,
            replica=self.replica,
            leased_until=now + self._lease,
            outcome=None if outcome is None else self._sealed(key, _OUTCOME.dump_json(outcome)),
            ended_at=None if outcome is None else now,
        )
        async with self._database.write() as connection:
            return await GatewayCallRepository(connection).add(call)

    async def take_over(self, call: GatewayCall, execution_id: str) -> bool:
        """Make a call that nobody follows this process's, for an execution; False if another one was faster."""
        until = utc_now() + self._lease
        async with self._database.write() as connection:
            return await GatewayCallRepository(connection).take_over(call, execution_id, self.replica, until)

    async def keep_handle(self, key: CallKey, handle: str) -> bool:
        """Store what finds a call again; False if the call is another process's by now."""
        async with self._database.write() as connection:
            return await GatewayCallRepository(connection).keep_handle(
                key, self.replica, self._sealed(key, handle.encode())
            )

    async def ask(self, key: CallKey, asked: Asked | None) -> None:
        """Store the open question of a call, or that there is none any more."""
        question = None if asked is None else self._sealed(key, _dump(_question_document(asked)))
        async with self._database.write() as connection:
            await GatewayCallRepository(connection).ask(key, self.replica, question)

    async def end(self, key: CallKey, outcome: Outcome) -> bool:
        """Store the outcome of a call; False if the call is another process's by now."""
        sealed = self._sealed(key, _OUTCOME.dump_json(outcome))
        async with self._database.write() as connection:
            return await GatewayCallRepository(connection).end(key, self.replica, sealed, utc_now())

    async def forget(self, key: CallKey) -> None:
        """Remove a call of which it has turned out that nothing was sent."""
        async with self._database.write() as connection:
            await GatewayCallRepository(connection).forget(key, self.replica)

    async def request_cancel(self, key: CallKey) -> None:
        """Ask the process that makes a call to cancel it."""
        async with self._database.write() as connection:
            await GatewayCallRepository(connection).request_cancel(key)

    async def leave_answer(self, key: CallKey, number: int, answer: SourceAnswer) -> bool:
        """Leave an answer for the process that makes a call; False if that question is not open."""
        call = await self.find(key)
        asked = None if call is None else self.asked(call)
        if call is None or call.question is None or asked is None or asked.number != number:
            return False
        sealed = self._sealed(key, _dump({"action": answer.action, "content": dict(answer.content), "number": number}))
        async with self._database.write() as connection:
            return await GatewayCallRepository(connection).leave_answer(key, call.question, sealed)

    async def wanted(self) -> list[tuple[CallKey, bool, tuple[int, SourceAnswer] | None]]:
        """Return the calls of this process that others want something of: whether to cancel them, and an answer."""
        async with self._database.read() as connection:
            found = await GatewayCallRepository(connection).wanted(self.replica)
        return [(key, cancel, self._answer(key, sealed)) for key, cancel, sealed in found]

    async def renew(self) -> None:
        """Let the calls of this process stay its own."""
        await self._lease_until(self._lease)

    async def release(self) -> None:
        """Let others take over the calls of this process, which ends."""
        await self._lease_until(timedelta())

    async def _lease_until(self, time: timedelta) -> None:
        async with self._database.write() as connection:
            await GatewayCallRepository(connection).renew(self.replica, utc_now() + time)

    async def let_go(self, key: CallKey) -> None:
        """Let others take over a call of this process, which has not ended."""
        async with self._database.write() as connection:
            await GatewayCallRepository(connection).let_go(key, self.replica, utc_now())

    async def drop_outcomes(self, retention_seconds: float, tests_seconds: float) -> int:
        """Drop outcomes that nobody has asked for in that time, and tests of tools; return how many."""
        now, dropped = utc_now(), 0
        before, tests_before = now - timedelta(seconds=retention_seconds), now - timedelta(seconds=tests_seconds)
        while True:
            async with self._database.write() as connection:
                portion = await GatewayCallRepository(connection).drop_outcomes(before, tests_before)
            dropped += portion
            if not portion:
                return dropped

    def outcome(self, call: GatewayCall) -> Outcome | None:
        """Return how a call has ended; None while it has not."""
        if call.ended_at is None:
            return None
        document = self._opened(call.key, call.outcome)
        if document is None:
            return _NO_LONGER_KEPT
        try:
            return _OUTCOME.validate_json(document)
        except ValidationError:
            return _NO_LONGER_KEPT

    def handle(self, call: GatewayCall) -> str:
        """Return what finds a call again; empty when nothing was kept."""
        return (self._opened(call.key, call.handle) or b"").decode()

    def asked(self, call: GatewayCall) -> Asked | None:
        """Return the open question of a call."""
        document = self._opened(call.key, call.question)
        if document is None:
            return None
        found = json.loads(document)
        question = SourceQuestion(found["text"], found["schema"], found["url"], found.get("key", ""))
        return Asked(found["number"], question)

    def _answer(self, key: CallKey, sealed: bytes | None) -> tuple[int, SourceAnswer] | None:
        document = self._opened(key, sealed)
        if document is None:
            return None
        found = json.loads(document)
        return found["number"], SourceAnswer(found["action"], found["content"])

    def _sealed(self, key: CallKey, plaintext: bytes) -> bytes:
        return self._seal.seal(key.row, plaintext)

    def _opened(self, key: CallKey, sealed: bytes | None) -> bytes | None:
        return None if sealed is None else self._seal.open(key.row, sealed)


def _question_document(asked: Asked) -> Mapping[str, Any]:
    question = asked.question
    return {"number": asked.number, **asdict(question)}


def _dump(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode()
