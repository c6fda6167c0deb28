"""A group's own credentials: stored sealed, never shown again."""

import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Sequence

from services.auth.chains.names import OAUTH_CLIENT
from services.auth.domain import Sealed, Secret
from services.auth.keys import bindings
from services.auth.keys.sealing import Binding
from services.auth.keys.vault import Vault
from services.auth.repositories import encryption_keys, sealed_rows, secrets
from services.auth.repositories.sealed_rows import Progress, SealedRow
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.egress import origin_of
from services.common.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from services.common.ids import new_id
from services.common.paging import cut_page, decode_page_token, page_size

_BATCH = 100
_TRIES = 5
_FINGERPRINT_DIGITS = 12
_LISTING = "ListSecrets"


class Secrets:
    """Stores, lists and removes secrets, and seals them again under a new key."""

    def __init__(self, database: Database, vault: Vault, *, changed: Callable[[str], None]) -> None:
        """`changed` is called with the id of a group whose secrets changed."""
        self._database = database
        self._vault = vault
        self._changed = changed

    async def put(self, group_id: str, name: str, value: str, allowed_origins: Sequence[str]) -> Secret:
        """Store a secret, or the next version of it.

        Raises:
            InvalidArgument: the value or an origin is malformed.
            FailedPrecondition: KEY_UNAVAILABLE, this replica lacks the key that seals.
            Aborted: others keep writing the same secret.
        """
        _check_value(name, value)
        origins = _origins(allowed_origins)
        async with self._database.write() as connection:
            key_id = await encryption_keys.sealing_key_id(connection)
            fingerprint = self._fingerprint(key_id, group_id, value)
            for _ in range(_TRIES):
                now = utc_now()
                standing = await secrets.get(connection, group_id, name)
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
                if await store(connection, secret):
                    break
            else:
                raise Aborted(f'the secret "{name}" is being written by others; try again', reason="REVISION_MISMATCH")
        self._changed(group_id)
        return secret

    async def page(self, group_id: str, size: int, token: str) -> tuple[Sequence[Secret], str]:
        """Return a page of the group's secrets by name, and the token of the next one.

        Raises:
            InvalidArgument: INVALID_PAGE_TOKEN.
        """
        filters = {"group_id": group_id}
        key = decode_page_token(token, _LISTING, filters)
        limit = page_size(size)
        async with self._database.read() as connection:
            found = await secrets.page(connection, group_id, key[0] if key else "", limit + 1)
        return cut_page(found, limit, _LISTING, filters, lambda secret: [secret.name])

    async def delete(self, group_id: str, name: str) -> None:
        """Remove a secret.

        Raises:
            NotFound: the group has none of that name.
        """
        async with self._database.write() as connection:
            if not await secrets.remove(connection, group_id, name):
                raise NotFound.of("secret", name)
        self._changed(group_id)

    async def rotate(self) -> AsyncIterator[tuple[Progress, str]]:
        """Turn to the newest key of the ring and seal everything again under it; yield progress and that key's id.

        Every replica needs the newest key in its ring before: from here on it seals what is written. Values stay
        readable throughout, as both keys are in the ring. It goes on where it was interrupted.

        Raises:
            FailedPrecondition: KEY_UNAVAILABLE, the ring lacks the key that seals now, or that a value is sealed under.
        """
        newest = await self._vault.turn_to_newest()
        unopened: FailedPrecondition | None = None
        for table in sealed_rows.TABLES:
            after = ""
            while True:
                async with self._database.read() as connection:
                    rows = await sealed_rows.under_other_keys(connection, table, newest, after, _BATCH)
                if not rows:
                    break
                after = rows[-1].row
                unopened = await self._reseal(rows, newest) or unopened
                async with self._database.read() as connection:
                    yield await sealed_rows.progress(connection, newest), newest
        if unopened is not None:
            raise unopened
        async with self._database.read() as connection:
            yield await sealed_rows.progress(connection, newest), newest

    async def _reseal(self, rows: Sequence[SealedRow], key_id: str) -> FailedPrecondition | None:
        """Seal rows again and return why one of them could not be opened, if so."""
        unopened: FailedPrecondition | None = None
        async with self._database.write() as connection:
            for row in rows:
                place = Binding(row.table, row.row, row.group, row.name, row.version)
                try:
                    plaintext = self._vault.open(place, row.sealed)
                except FailedPrecondition as error:
                    unopened = error
                    continue
                changes = {"fingerprint": self._fingerprint(key_id, row.group, plaintext.decode())} if row.group else {}
                # Whoever wrote a new value meanwhile has sealed it under the newest key.
                await sealed_rows.replace(connection, row, self._vault.seal_under(key_id, place, plaintext), changes)
        return unopened

    def _fingerprint(self, key_id: str, group_id: str, value: str) -> str:
        return self._vault.hash(key_id, "fingerprint", group_id, value)[:_FINGERPRINT_DIGITS]


def _origins(urls: Sequence[str]) -> tuple[str, ...]:
    origins: dict[str, None] = {}
    for index, url in enumerate(urls):
        origin = origin_of(url)
        if origin is None:
            raise InvalidArgument.field(f"allowed_origins[{index}]", "not an origin; example: https://example.com:8443")
        origins[origin] = None
    return tuple(origins)


def _check_value(name: str, value: str) -> None:
    """Refuse what would fail only when it is used; never repeats any of it."""
    if value != value.strip():
        raise InvalidArgument.field("value", "has white space around it, which is hardly part of the secret; remove it")
    if name != OAUTH_CLIENT:
        return
    try:
        client = json.loads(value)
    except ValueError:
        client = None
    if not isinstance(client, dict) or not all(
        isinstance(client.get(key), str) and client[key] for key in ("client_id", "client_secret")
    ):
        raise InvalidArgument.field("value", f'{name} is a JSON object with "client_id" and "client_secret"')
