"""The stream of a group's events."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.expiry import remove_before
from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.identity.principal import Principal
from services.common.paging import decode_page_token, encode_page_token
from services.orchestrator.domain.group_event import EventFilter, GroupEvent, Position
from services.orchestrator.repositories.group_events import GroupEventReader, adopt_events
from services.orchestrator.tables import group_events
from services.orchestrator.usecases.group_feed import GroupFeed

_STREAM = "group_events"
# An event is stored a moment after the time it carries, by the clock of another machine.
_MARGIN = timedelta(minutes=1)


class GroupEvents:
    """Shows groups what happens in their executions, and forgets it after a time."""

    def __init__(
        self, database: Database, events: GroupEventReader, feed: GroupFeed, *, retention_seconds: float
    ) -> None:
        self._database = database
        self._events = events
        self._feed = feed
        self._retention = timedelta(seconds=retention_seconds)

    async def watch(
        self, principal: Principal, after_position: str, chosen: EventFilter
    ) -> AsyncIterator[tuple[GroupEvent | None, str]]:
        """Yield the chosen events of the group, each with its position; at first, and now and then, a position alone.

        Raises:
            InvalidArgument: the position is not one of this group.
            FailedPrecondition: POSITION_EXPIRED.
            Unavailable: this process is shutting down; watch again.
        """
        given = _decoded(after_position, principal.group_id)
        settled = await self._events.settled()
        position = settled
        if given is not None:
            position, reached_at = given
            # One ahead of everything was made by another database server, before this one was restored from it.
            if position > settled or reached_at < utc_now() - self._retention + _MARGIN:
                raise FailedPrecondition(
                    "events after this position may have been removed; watch with an empty after_position, and call "
                    "ListExecutions for what has changed meanwhile",
                    reason="POSITION_EXPIRED",
                )
        async for stretch in self._feed.follow(principal.group_id, position, settled, chosen):
            for event in stretch.events:
                yield event, _encoded(event.position, event.stored_at, principal.group_id)
            if not stretch.events:
                yield None, _encoded(stretch.position, stretch.reached_at, principal.group_id)

    async def adopt(self) -> None:
        """Put events that came with a restored database where they can be read."""
        await adopt_events(self._database)

    async def forget(self) -> None:
        """Remove events whose time is over. Replicas may do it at once."""
        await remove_before(self._database, group_events.c.stored_at, utc_now() - self._retention)


def _encoded(position: Position, reached_at: datetime, group_id: str) -> str:
    return encode_page_token(_STREAM, {"group": group_id}, [*position, int(reached_at.timestamp())])


def _decoded(token: str, group_id: str) -> tuple[Position, datetime] | None:
    """Return a position and when the stream was there; None for no token."""
    try:
        parts = decode_page_token(token, _STREAM, {"group": group_id})
        if parts is None:
            return None
        transaction_id, number, seconds = map(_small, parts)
        return Position(transaction_id, number), datetime.fromtimestamp(seconds, UTC)
    except (InvalidArgument, ValueError, OverflowError, OSError):
        raise InvalidArgument.field(
            "after_position",
            "not a position in your group's events: pass the position of the last response, or leave it empty",
        ) from None


def _small(part: object) -> int:
    """Return a whole number that a database takes. Raises ValueError."""
    if type(part) is not int or not 0 <= part < 2**63:
        raise ValueError(part)
    return part
