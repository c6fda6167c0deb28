"""A connection that hints travel on, made again whenever it breaks."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import asyncpg
import grpc
import structlog
from prometheus_client import Counter
from sqlalchemy.exc import SQLAlchemyError

from services.common.backoff import Backoff
from services.common.errors import CoxswainError

logger = structlog.get_logger(__name__)

_INTERRUPTIONS = Counter("coxswain_hints_interrupted_total", "Times that a connection for hints broke or was not made.")

Connected: TypeAlias = Callable[[], None]
"""Called when the other side has answered: the next pause is a short one again."""

_BACKOFF = Backoff(0.1, 5.0)
_BROKEN = (
    OSError,
    TimeoutError,
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    grpc.RpcError,
    CoxswainError,
)


async def keep_connected(other_side: str, carry: Callable[[Connected], Coroutine[Any, Any, None]]) -> None:
    """Do `carry`, which ends with its connection, again and again, with growing pauses between failures."""
    failures = 0

    def connected() -> None:
        nonlocal failures
        failures = 0

    while True:
        try:
            await carry(connected)
        except _BROKEN as error:
            _INTERRUPTIONS.inc()
            logger.warning("hints_interrupted", other_side=other_side, error=type(error).__name__)
        except Exception:
            # If the loop ended here, everybody would depend on slow polls.
            _INTERRUPTIONS.inc()
            logger.exception("hints_interrupted", other_side=other_side)
        failures += 1
        await asyncio.sleep(_BACKOFF.pause(failures))
