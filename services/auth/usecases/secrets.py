"""A group's own credentials: stored sealed, never shown again."""

import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Sequence

from services.auth import tables
from services.auth.chains.names import DATABRICKS_API_KEY, DATABRICKS_PAT, LLM_KEY, OAUTH_CLIENT
from services.auth.domain import RotationProgress, Sealed, Secret
from services.auth.keys import bindings
from services.auth.keys.sealing import Binding
from services.auth.keys.vault import Vault
from services.auth.repositories.encryption_keys import EncryptionKeyRepository
from services.auth.repositories.sealed_rows import TABLES, SealedRow, SealedRowRepository
from services.auth.repositories.secrets import SecretRepository
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.row_quota import check_row_quota
from services.common.egress import credential_origin_of
from services.common.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from services.common.identity.provider_credentials import WrongForm, check_credential, check_key
from services.common.ids import new_id
from services.common.paging import Page, Pager

_BATCH = 100
_TRIES = 5
_FINGERPRINT_DIGITS = 12
_SECRETS = Pager("secrets")


class Secrets:
    """Stores, lists and removes secrets, and seals them again under a new key."""

    def __init__(self, database: Database, vault: Vault, *, changed: Callable[[str], None]) -> None:
        """`changed` is called with the id of a group whose secrets changed."""
        self._database = database
        self._vault = vault
        self._changed = changed

    async def put(
        self, group_id: str, name: str, value: str, allowed_origins: Sequence[str], *, limit: int | None = None
    ) -> Secret:
        """Store a secret, or the next version of it; the group may have as many as `limit`.

        Raises:
            InvalidArgument: the value or an origin is malformed.
            FailedPrecondition: KEY_UNAVAILABLE, this replica lacks the key that seals.
            Aborted: others keep writing the same secret.
            ResourceExhausted: QUOTA_EXCEEDED, the group has as many secrets as it may.
        """
        _check_value(name, value)
        origins = _origins(allowed_origins)
        async with self._database.write() as connection:
            secrets = SecretRepository(connection)
            key_id = await EncryptionKeyRepository(connection).sealing_key_id()
            fingerprint = self._fingerprint(key_id, group_id, value)
            for _ in range(_TRIES):
                now = utc_now()
                standing = await secrets.get(group_id, name, lock=True)
                if standing is None:
                    column = tables.secrets.c.group_id
                    await check_row_quota(connection, "max_secrets", limit, column, group_id, what="secrets")
                draft = Secret(
                    id=standing.id if standing else new_id(),
                    group_id=group_id,
                    name=name,
                    version=standing.version + 1 if standing else 1,
                    fingerprint=fingerprint,
                    allowed_origins=origins,
                    sealed=Sealed(key_id, b""),
                    created_at=standing.created_at if standing else now,
                    updated_at=now,
                )
                sealed = self._vault.seal_under(key_id, bindings.secret(draft), value.encode())
                secret = dataclasses.replace(draft, sealed=sealed)
                store = secrets.replace if standing else secrets.add
                if await store(secret):
                    break
            else:
                raise Aborted(
                    f'the secret "{name}" is being written by other calls; try again', reason="REVISION_MISMATCH"
                )
        self._changed(group_id)
        return secret

    async def page(self, group_id: str, size: int, token: str) -> Page[Secret]:
        """Return a page of the group's secrets, by name.

        Raises:
            InvalidArgument: INVALID_PAGE_TOKEN.
        """
        async with self._database.read() as connection:
            secrets = SecretRepository(connection)
            return await _SECRETS.page(
                size,
                token,
                {"group_id": group_id},
                lambda after, limit: secrets.page(group_id, after[0] if after else "", limit),
                lambda secret: [secret.name],
            )

    async def delete(self, group_id: str, name: str) -> None:
        """Remove a secret.

        Raises:
            NotFound: the group has none of that name.
        """
        async with self._database.write() as connection:
            if not await SecretRepository(connection).delete(group_id, name):
                raise NotFound.of("secret", name)
        self._changed(group_id)

    async def rotate(self) -> AsyncIterator[RotationProgress]:
        """Make the newest key of the ring the sealing one and seal every value again under it; yield progress.

        Every replica needs the newest key in its ring before: from here on it seals what is written. Values stay
        readable throughout, as both keys are in the ring. An interrupted rotation continues with the next call.

        Raises:
            FailedPrecondition: KEY_UNAVAILABLE, the ring lacks the key that seals now, or that a value is sealed under.
        """
        newest = await self._vault.turn_to_newest()
        unopened: FailedPrecondition | None = None
        for table in TABLES:
            after = ""
            while True:
                async with self._database.read() as connection:
                    rows = await SealedRowRepository(connection).under_other_keys(table, newest, after, _BATCH)
                if not rows:
                    break
                after = rows[-1].row
                unopened = await self._reseal(rows, newest) or unopened
                yield await self._progress(newest)
        if unopened is not None:
            raise unopened
        yield await self._progress(newest)

    async def _progress(self, key_id: str) -> RotationProgress:
        async with self._database.read() as connection:
            counts = await SealedRowRepository(connection).count_by_key()
        return RotationProgress(counts[key_id], counts.total(), key_id)

    async def _reseal(self, rows: Sequence[SealedRow], key_id: str) -> FailedPrecondition | None:
        """Seal rows again and return why one of them could not be opened, if so."""
        unopened: FailedPrecondition | None = None
        async with self._database.write() as connection:
            sealed_rows = SealedRowRepository(connection)
            for row in rows:
                binding = Binding(row.table, row.row, row.group, row.name, row.version)
                try:
                    plaintext = self._vault.open(binding, row.sealed)
                except FailedPrecondition as error:
                    unopened = error
                    continue
                changes = {"fingerprint": self._fingerprint(key_id, row.group, plaintext.decode())} if row.group else {}
                # A value written meanwhile has been sealed under the newest key already.
                await sealed_rows.replace(row, self._vault.seal_under(key_id, binding, plaintext), changes)
        return unopened

    def _fingerprint(self, key_id: str, group_id: str, value: str) -> str:
        return self._vault.hash(key_id, "fingerprint", group_id, value)[:_FINGERPRINT_DIGITS]


def _origins(urls: Sequence[str]) -> tuple[str, ...]:
    origins: dict[str, None] = {}
    for index, url in enumerate(urls):
        origin = credential_origin_of(url)
        if origin is None:
            raise InvalidArgument.field(
                f"allowed_origins[{index}]",
                "must be an origin: scheme, host and port; example: https://example.com:8443",
            )
        origins[origin] = None
    return tuple(origins)


def _check_value(name: str, value: str) -> None:
    """Refuse what would fail only when it is used; never repeats any of it."""
    if value != value.strip():
        raise InvalidArgument.field("value", "must not begin or end with white space; remove it")
    provider = name.removeprefix(LLM_KEY.format(provider=""))
    try:
        if provider != name:
            check_credential(provider, value)
        elif name in (DATABRICKS_API_KEY, DATABRICKS_PAT):
            check_key(value)
    except WrongForm as wrong:
        raise InvalidArgument.field("value", f"the value of {name} must be {wrong}") from None
    if name != OAUTH_CLIENT:
        return
    try:
        client = json.loads(value)
    except ValueError:
        client = None
    if not isinstance(client, dict) or not all(
        isinstance(client.get(key), str) and client[key] for key in ("client_id", "client_secret")
    ):
        raise InvalidArgument.field(
            "value", f'the value of {name} must be a JSON object with the texts "client_id" and "client_secret"'
        )
