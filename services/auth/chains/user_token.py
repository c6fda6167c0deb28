"""The calling user's own token."""

from services.auth.chains.link import Answer, CredentialRequest, for_destination
from services.auth.identity.cache import EXPIRY_MARGIN
from services.auth.identity.sessions import SessionStore
from services.common.clock import utc_now
from services.common.identity.principal import CredentialKind

_WHY_ABSENT = {
    CredentialKind.WORKLOAD: "you signed in as a workload, which has no token to act with",
    CredentialKind.GROUP: "the execution acts as its group, not as a user",
    CredentialKind.DEV: "development identities have no token to act with",
}


class UserTokenLink:
    """Absent only for callers who are not users: a user whose token is gone never acts with other rights."""

    name = "user_token"

    def __init__(self, sessions: SessionStore, also_to: tuple[str, ...] = ()) -> None:
        """`also_to` are origins of the operator's that take users' tokens, besides the one a token belongs to."""
        self._sessions = sessions
        self._also_to = also_to

    async def ask(self, request: CredentialRequest) -> Answer:
        """Return the token of the caller's session; see `Link`."""
        principal = request.principal
        if principal.credential_kind is not CredentialKind.USER:
            return Answer.absent(_WHY_ABSENT[principal.credential_kind])
        session = await self._sessions.get(principal.session_id)
        if session is None or session.subject != principal.subject or session.expires_at - EXPIRY_MARGIN <= utc_now():
            return Answer.expired("your token has expired; sign in again and repeat the call with a fresh one")
        token = self._sessions.token(session)
        origins = tuple(filter(None, (session.origin, *self._also_to)))
        if not token or not origins:
            return Answer.expired("your token is no longer kept; repeat the call with it")
        answer = Answer.used("your own token", token, origins[0], expires_at=session.expires_at, on_behalf_of_user=True)
        return for_destination(answer, origins, request.destination)
