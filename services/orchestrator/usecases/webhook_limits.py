"""How many webhooks a group may have."""

from services.common.quotas import quota_exceeded
from services.orchestrator.repositories.webhooks import WebhookRepository

MAX_WEBHOOKS = 32
"""For all executions of a group."""
MAX_BOUND_WEBHOOKS = 1_000
"""Of single executions and tasks of a group that have not ended.

With those that have, until all is posted, twice as many: each round asks for news of all of them.
"""


async def refuse_more_bound(webhooks: WebhookRepository, group_id: str) -> None:
    """Refuse another webhook of an execution or a task; a few that come at once may all be stored.

    Raises:
        QuotaExceeded: the group has as many as it may.
    """
    open_ones, all_of_them = await webhooks.count_bound(group_id)
    for count, limit, what in (
        (open_ones, MAX_BOUND_WEBHOOKS, "that have not ended"),
        (all_of_them, 2 * MAX_BOUND_WEBHOOKS, "that have not ended, or whose events have not all been posted"),
    ):
        if count >= limit:
            raise quota_exceeded(
                "execution_webhooks",
                limit,
                count,
                f"the group has {count:,} webhooks of executions and tasks {what}, and may not have more; try again "
                "later, or delete or pause some",
                retry_after=60.0,
            )
