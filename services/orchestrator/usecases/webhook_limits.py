"""How many webhooks a group may have."""

from services.common.quotas import quota_exceeded
from services.orchestrator.repositories.webhooks import WebhookRepository

MAX_WEBHOOKS = 32
"""For all executions of a group."""
MAX_BOUND_WEBHOOKS = 1_000
"""Of single executions and tasks of a group that have not ended.

With those that have, until all is posted, twice as many: each round asks for news of all of them.
"""
MAX_BOUND_WEBHOOKS_OF_SUBJECT = 500
"""The same for one subject, so that nobody takes all places of their group."""


async def refuse_more_bound(webhooks: WebhookRepository, group_id: str, subject: str) -> None:
    """Refuse a subject another webhook of an execution or a task; a few that come at once may all be stored.

    Raises:
        QuotaExceeded: the group, or the subject in it, has as many as it may.
    """
    of_group, of_subject = await webhooks.count_bound(group_id, subject)
    for counts, most, quota, owner in (
        (of_subject, MAX_BOUND_WEBHOOKS_OF_SUBJECT, "subject_execution_webhooks", "you have"),
        (of_group, MAX_BOUND_WEBHOOKS, "execution_webhooks", "the group has"),
    ):
        for count, limit, what in (
            (counts.open, most, "that have not ended"),
            (counts.all, 2 * most, "that have not ended, or whose events have not all been posted"),
        ):
            if count >= limit:
                raise quota_exceeded(
                    quota,
                    limit,
                    count,
                    f"{owner} {count:,} webhooks of executions and tasks {what}, and may not have more; try again "
                    "later, or delete or pause some",
                    retry_after=60.0,
                )
