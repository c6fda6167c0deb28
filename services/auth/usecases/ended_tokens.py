"""How tokens of groups end, in the transaction of what ends them: with the grants and principals they have."""

from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.identity.service_tokens import subject_of, token_of
from services.auth.repositories.access_changes import AccessChangeRepository
from services.auth.repositories.grants import GrantRepository
from services.auth.repositories.service_tokens import ServiceTokenRepository
from services.common.clock import utc_now


async def end_token(connection: AsyncConnection, group_id: str, name: str) -> bool:
    """End a token, whatever group it acts in, and return whether there was one."""
    subject, changes = subject_of(group_id, name), AccessChangeRepository(connection)
    await changes.lock(subject)
    if not await ServiceTokenRepository(connection).remove(group_id, name):
        return False
    now = utc_now()
    await changes.revoke(subject, "", now)
    await GrantRepository(connection).revoke_of_subject(subject, "", now)
    return True


async def end_tokens_of(connection: AsyncConnection, subject: str, group_id: str) -> int:
    """End the tokens that a subject made in a group ("" for all), and the one it is; return how many."""
    # Who makes a token meanwhile makes it before, or sees that they may no longer.
    await AccessChangeRepository(connection).lock(subject)
    ended = await ServiceTokenRepository(connection).made_by(subject, group_id)
    own = token_of(subject)
    if own is not None and group_id in ("", own[0]):
        ended.append(own)
    return sum([await end_token(connection, *each) for each in ended])
