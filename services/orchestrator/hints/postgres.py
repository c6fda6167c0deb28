"""Hints through PostgreSQL."""

from typing import Any

from services.common.background import BackgroundTasks
from services.common.db.database import Database
from services.orchestrator.domain.hint import Hint, HintKind
from services.orchestrator.hints.bus import LocalHintBus, Subscription
from services.orchestrator.hints.connection import Connected, keep_connected

_PING_SECONDS = 30.0
_ANSWER_SECONDS = 10.0
"""Without an answer for that long the connection is taken for dead."""


class PostgresHintBus(LocalHintBus):
    """Carries hints through PostgreSQL, over one connection that is opened again when it breaks."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database
        self._channel = f"coxswain_{database.schema}_hints"
        self._outgoing = Subscription(HintKind)
        self._background = BackgroundTasks()

    async def start(self) -> None:
        """See `HintBus`."""
        self._background.start(keep_connected("postgresql", self._carry))

    def publish(self, hint: Hint) -> None:
        """See `HintBus`. Listeners of this process hear it twice: at once, whether or not the connection lives."""
        super().publish(hint)
        self._outgoing.offer(hint)

    async def close(self) -> None:
        """See `HintBus`."""
        await self._background.stop()

    async def _carry(self, connected: Connected) -> None:
        connection = await self._database.engine.connect()
        try:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            driver.add_termination_listener(self._lost)
            await driver.add_listener(self._channel, self._heard)
            connected()
            super().publish(Hint(HintKind.RESYNC))
            while True:
                hints = await self._outgoing.take(_PING_SECONDS)
                payloads = [f"{hint.kind} {hint.execution_id} {hint.last_sequence} {hint.group_id}" for hint in hints]
                try:
                    # With nothing to send this is what finds out that the connection is dead.
                    await driver.execute(
                        "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload",
                        self._channel,
                        payloads,
                        timeout=_ANSWER_SECONDS,
                    )
                except BaseException:
                    for hint in hints:
                        self._outgoing.offer(hint)
                    raise
        finally:
            # Never back to the pool: it listens.
            await connection.invalidate()
            await connection.close()

    def _lost(self, _connection: object) -> None:
        self._outgoing.wake()

    def _heard(self, _connection: object, _process: int, _channel: str, payload: str) -> None:
        kind, execution_id, last_sequence, group_id = payload.split(" ", 3)
        try:
            hint = Hint(HintKind(kind), execution_id, int(last_sequence), group_id)
        except ValueError:
            return  # A newer release knows more kinds.
        super().publish(hint)
