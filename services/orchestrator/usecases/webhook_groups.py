"""Webhooks of groups that were deleted."""

from datetime import UTC, datetime, timedelta

import structlog

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.identity.access_changes import EVERYBODY, MARGIN_SECONDS, AccessChanges, AccessChangeSource
from services.orchestrator.repositories.webhooks import WebhookRepository

logger = structlog.get_logger(__name__)


class WebhookGroups:
    """Pauses the webhooks of deleted groups: those who made them do not get what a new group of the same id does."""

    def __init__(self, database: Database, source: AccessChangeSource) -> None:
        self._database = database
        self._source = source
        self._known = AccessChanges()

    async def once(self) -> None:
        """Pause what was made or changed before its group was deleted. Replicas may do it at once.

        Raises:
            Unavailable: auth or the database does not answer.
        """
        changes = await self._source.access_changes(self._known.since)
        deleted = {change.group_id: change.changed_at for change in changes if change.subject == EVERYBODY}
        if deleted:
            async with self._database.write() as connection:
                webhooks = WebhookRepository(connection)
                for group_id, seconds in sorted(deleted.items()):
                    # The clocks of auth and of this machine differ.
                    before = datetime.fromtimestamp(seconds, UTC) + timedelta(seconds=MARGIN_SECONDS)
                    if await webhooks.pause_group(group_id, before, utc_now()):
                        logger.info("webhooks_paused", group_id=group_id)
        # Only now: after a failure they are asked for again.
        self._known.learn(changes)
