"""How it is told that a limit of a group is reached."""

from prometheus_client import Counter

from services.common.counts import from_the_start
from services.common.errors import ResourceExhausted
from services.common.identity.group_limits import LIMIT_NAMES

_REFUSED = from_the_start(
    Counter(
        "coxswain_quota_refusals_total",
        "Calls that were refused because a limit of their group was reached, by limit.",
        ("quota",),
    ),
    LIMIT_NAMES,
)


class QuotaExceeded(ResourceExhausted):
    """A limit of the group is reached, which this process has found out."""

    def count(self) -> None:
        """Count it as told to a caller."""
        _REFUSED.labels(self.metadata["quota"]).inc()


def check_quota(
    quota: str,
    limit: float | None,
    used: float,
    *,
    what: str,
    more: float = 1,
    remedy: str = "delete some",
    retry_after: float | None = None,
) -> None:
    """Refuse `more` of what `used` are there of already; a `limit` of None allows everything.

    `quota` is a field of `coxswain.auth.v1.GroupLimits` or the name of another limit, `what` is counted, in words.
    Example: "crews". `remedy` is what the group can do, and `retry_after`, in seconds, is for what passes by itself.

    Raises:
        QuotaExceeded: it would be too many.
    """
    if limit is not None and used + more > limit:
        raise quota_exceeded(
            quota,
            limit,
            used,
            f"your group has {used:,.0f} {what}, and may have {limit:,.0f}; {remedy}, or {how_to_raise(quota)}",
            retry_after=retry_after,
        )


def how_to_raise(quota: str) -> str:
    """Return what a group does to have more, as the end of a sentence."""
    if quota in LIMIT_NAMES:
        # The group's own admins may have lowered it.
        return "have the limit raised (GetGroupLimits says who set it)"
    return "ask the operator of this installation for more"


def quota_exceeded(
    quota: str, limit: float, used: float, message: str, *, retry_after: float | None = None
) -> QuotaExceeded:
    """Return a refusal to be raised; `retry_after` is in seconds."""
    return QuotaExceeded(
        f"{message} ({quota})",
        reason="QUOTA_EXCEEDED",
        metadata={"quota": quota, "limit": f"{limit:.15g}", "used": f"{used:.15g}"},
        retry_after=retry_after,
    )
