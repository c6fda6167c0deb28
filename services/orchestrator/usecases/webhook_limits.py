"""How many webhooks a group may have."""

from services.common.quotas import quota_exceeded
from services.orchestrator.repositories.webhooks import WebhookRepository

MAX_WEBHOOKS = 32
"""For all executions of a group."""
MAX_BOUND_WEBHOOKS = 1_000
"""Of single executions and tasks of a group, until all is posted. Each round asks for news of all of them."""


async def refuse_more_bound(webhooks: WebhookRepository, group_id: str) -> None:
    """Refuse another webhook of an execution or a task; a few that come at once may all be stored.

    Raises:
        QuotaExceeded: the group has as many as it may.
    """
    count = await webhooks.count_bound(group_id)
    if count >= MAX_BOUND_WEBHOOKS:
        raise quota_exceeded(
            "execution_webhooks",
            MAX_BOUND_WEBHOOKS,
            count,
            f"the group has {count:,} webhooks of executions and tasks that have not ended, or whose events have not "
            "all been posted, and may not have more; try again when some have ended, or delete some",
            retry_after=60.0,
        )
