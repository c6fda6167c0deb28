"""Who connects to a database, and with which password: auth decides, or the workspace of a Lakebase instance."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import quote

from services.common.cache import AsyncCache
from services.common.egress import credential_origin_of
from services.common.errors import CoxswainError, FailedPrecondition, FieldViolation
from services.common.grpc.call import current_principal
from services.common.identity.credentials import AuthCredentials
from services.common.ids import new_id
from services.memory.domain.backends import LakebaseInstance, PgvectorConfig, TlsMode
from services.memory.stores.databricks.transport import Request, Transport
from services.memory.stores.databricks.wire import BadAnswer, Json

_KEPT: Final = 1000
_MARGIN_SECONDS: Final = 300.0
"""A password of a workspace is replaced so long before it expires."""


@dataclass(frozen=True, slots=True)
class Login:
    """A user and a password."""

    user: str
    password: str = field(repr=False)
    from_cache: bool = False
    """Whether the password may have been replaced since."""
    group_id: str = ""
    """Whose it is."""


@dataclass(frozen=True, slots=True)
class _Issued:
    user: str
    password: str = field(repr=False)
    expires_at: float


class Logins:
    """Finds logins for the calling principal; what is remembered is for the same group, subject and session only."""

    def __init__(self, passwords: AuthCredentials, workspaces: Transport) -> None:
        """`passwords` are those of databases, `workspaces` those that issue passwords of Lakebase."""
        self._passwords = passwords
        self._workspaces = workspaces
        self._issued: AsyncCache[tuple[str, ...], _Issued] = AsyncCache(
            _KEPT, lambda issued: issued.expires_at - _MARGIN_SECONDS - time.time()
        )

    async def find(self, config: PgvectorConfig) -> Login:
        """Return the caller's login.

        Raises:
            CoxswainError: there is none, it may not be sent there, or who gives it does not answer.
        """
        if config.lakebase is None:
            found = await self._passwords.resolve(_origin(config), secret_name=config.password_secret)
            if found.is_operators and config.tls_mode is not TlsMode.VERIFY_FULL:
                # One of the group's own, stored now, counts at once.
                self.forget(config)
                raise _unverified(config)
            return Login(config.user, found.token, found.from_cache, current_principal().group_id)
        lakebase = config.lakebase
        key = _cache_key(config)
        known = self._issued.peek(key)
        issued = known or await self._issued.get(key, lambda: self._issue(lakebase, config))
        return Login(issued.user, issued.password, known is not None, current_principal().group_id)

    def forget(self, config: PgvectorConfig) -> None:
        """Find the caller's login anew the next time: the database refused it."""
        if config.lakebase is None:
            self._passwords.forget(_origin(config), secret_name=config.password_secret)
        else:
            self._issued.forget(_cache_key(config))

    async def _issue(self, lakebase: LakebaseInstance, config: PgvectorConfig) -> _Issued:
        """Have a password issued, once it is known that it goes to the instance it is for."""
        url, subject = lakebase.workspace_url, f"database {lakebase.instance}"
        if lakebase.instance.startswith("projects/"):
            path, credentials = f"/api/2.0/postgres/{quote(lakebase.instance)}", "/api/2.0/postgres/credentials"
            body: Json = {"endpoint": lakebase.instance}
        else:
            path = f"/api/2.0/database/instances/{quote(lakebase.instance, safe='')}"
            credentials = "/api/2.0/database/credentials"
            body = {"request_id": new_id(), "instance_names": [lakebase.instance]}
        hosts = await self._workspaces.call(url, Request("GET", path, subject), _hosts)
        if config.host not in hosts:
            raise _other_host(config, lakebase, hosts)
        who = config.user or await self._workspaces.call(
            url, Request("GET", "/api/2.0/preview/scim/v2/Me", "the identity of the credential"), _user_name
        )
        request = Request("POST", credentials, subject, json.dumps(body).encode())
        password, expires_at = await self._workspaces.call(url, request, _credential)
        return _Issued(who, password, expires_at)


def refused(config: PgvectorConfig, login: Login) -> CoxswainError:
    """Return the failure of a login that the database refused twice, or that was new."""
    if config.lakebase is not None:
        return FailedPrecondition(
            f"{config.subject} does not let {login.user} in, with a token of {config.lakebase.workspace_url}: give "
            "that identity a role in the database (Lakebase: CREATE EXTENSION databricks_auth; "
            "SELECT databricks_create_role(...)) or correct the backend's user",
            reason="UPSTREAM_CREDENTIAL_REJECTED",
        )
    return FailedPrecondition(
        f"{config.subject} refuses user {config.user} with the password of the secret {config.password_secret}: store "
        "the right one (PutSecret), or correct the backend's user and database",
        reason="UPSTREAM_CREDENTIAL_REJECTED",
    )


def _unverified(config: PgvectorConfig) -> FailedPrecondition:
    what = (
        "must be TLS_MODE_VERIFY_FULL, since the password is the operator's, which goes to no server that only says "
        f"that it is theirs; or store one of the group's own as {config.password_secret} (PutSecret)"
    )
    return FailedPrecondition(
        f"{config.subject}: tls_mode {what}",
        reason="DESTINATION_NOT_ALLOWED",
        metadata={"origin": f"postgresql://{config.address}"},
        violations=(FieldViolation("backend.pgvector.tls_mode", what),),
    )


def _other_host(config: PgvectorConfig, lakebase: LakebaseInstance, hosts: Sequence[str]) -> FailedPrecondition:
    what = (
        f"{config.host} is not a host name of {lakebase.instance} in {lakebase.workspace_url}, whose password goes "
        f"nowhere else: write {' or '.join(hosts) or 'the one it gets when it is ready: it has none yet'}"
    )
    return FailedPrecondition(
        what,
        reason="DESTINATION_NOT_ALLOWED",
        metadata={"origin": f"postgresql://{config.address}"},
        violations=(FieldViolation("backend.pgvector.host", what),),
    )


def _origin(config: PgvectorConfig) -> str:
    origin = credential_origin_of(f"postgresql://{config.address}")
    if origin is None:
        raise FailedPrecondition(
            f"{config.address} is not the address of a server: correct the backend's host", reason="INVALID_FIELD"
        )
    return origin


def _cache_key(config: PgvectorConfig) -> tuple[str, ...]:
    principal = current_principal()
    lakebase = config.lakebase
    assert lakebase is not None
    own = (principal.group_id, principal.subject, principal.session_id)
    # The host as well: that the password may go there was found out for this one alone.
    return (*own, lakebase.workspace_url, lakebase.instance, config.host, config.user)


def _hosts(document: Json) -> Sequence[str]:
    """Return the host names of an instance, or of an endpoint; none while it has none."""
    of_endpoint = (document.get("status") or {}).get("hosts") or {}
    names = (
        document.get("read_write_dns"),
        document.get("read_only_dns"),
        of_endpoint.get("host"),
        of_endpoint.get("read_only_host"),
        of_endpoint.get("read_write_pooled_host"),
        of_endpoint.get("read_only_pooled_host"),
    )
    found = (name.lower().rstrip(".") for name in names if isinstance(name, str) and name)
    return list(dict.fromkeys(found))


def _user_name(document: Json) -> str:
    # Keys of answers are read in snake case.
    name = document.get("user_name")
    if not isinstance(name, str) or not name:
        raise BadAnswer("it has no userName")
    return name


def _credential(document: Json) -> tuple[str, float]:
    """Return a password and when it expires, in seconds since 1970."""
    token, expires = document.get("token"), document.get("expiration_time") or document.get("expire_time")
    if not isinstance(token, str) or not token:
        raise BadAnswer("it has no token")
    try:
        return token, datetime.fromisoformat(str(expires)).timestamp()
    except ValueError:
        raise BadAnswer("its time of expiry is not one") from None
