"""Webhooks of groups that were deleted, and of who has left one."""

from datetime import UTC, datetime, timedelta

import structlog

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.identity.access_changes import (
    EVERYBODY,
    MARGIN_SECONDS,
    AccessChange,
    AccessChanges,
    AccessChangeSource,
)
from services.orchestrator.repositories.webhooks import WebhookRepository

logger = structlog.get_logger(__name__)


class WebhookGroups:
    """Pauses webhooks of those who may no longer see what they tell.

    Those who made webhooks of a group that was deleted do not get what a new group of the same id does. A webhook of
    one execution or task needs no more than an operator, and is paused when the access of who made it has changed.
    """

    def __init__(self, database: Database, source: AccessChangeSource) -> None:
        self._database = database
        self._source = source
        self._known = AccessChanges()

    async def once(self) -> None:
        """Pause what was made or changed before the access of its maker was. Replicas may do it at once.

        Raises:
            Unavailable: auth or the database does not answer.
        """
        changes = await self._source.access_changes(self._known.since)
        if not changes:
            return
        async with self._database.read() as connection:
            concerned = {EVERYBODY, *await WebhookRepository(connection).bound_subjects()}
        for change in changes:
            if change.subject in concerned:
                await self._pause(change)
        # Only now: after a failure they are asked for again.
        self._known.learn(changes)

    async def _pause(self, change: AccessChange) -> None:
        # The clocks of auth and of this machine differ.
        before = datetime.fromtimestamp(change.changed_at, UTC) + timedelta(seconds=MARGIN_SECONDS)
        # A transaction for each change: only within one are webhooks locked in the order of their ids.
        async with self._database.write() as connection:
            webhooks, now = WebhookRepository(connection), utc_now()
            if change.subject == EVERYBODY:
                paused = await webhooks.pause_group(change.group_id, before, now)
            else:
                paused = await webhooks.pause_bound(change.subject, change.group_id, before, now)
        if paused:
            logger.info("webhooks_paused", group_id=change.group_id, webhooks=paused)
