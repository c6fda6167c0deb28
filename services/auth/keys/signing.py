"""The keys that principal tokens are signed with: pending -> active -> retiring, all of them published."""

import dataclasses
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.domain import SigningKey, SigningKeyState
from services.auth.keys import bindings
from services.auth.keys.vault import Vault
from services.auth.repositories.signing_keys import SigningKeyRepository
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import Unavailable
from services.common.identity.principal import Principal
from services.common.identity.principal_token import encode_principal

logger = structlog.get_logger(__name__)


class SigningKeys:
    """This replica's view of the signing keys, read again on a timer.

    Replicas take the steps of a rotation one after another, in the database; each step may be taken by any of them.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        *,
        lifetime: timedelta,
        publish: timedelta,
        retire: timedelta,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """A key signs for `lifetime`; it is published `publish` before that, and for `retire` after it."""
        self._database = database
        self._vault = vault
        self._lifetime = lifetime
        self._publish = publish
        self._retire = retire
        self._clock = clock
        self._active: tuple[str, Ed25519PrivateKey] | None = None
        self._published: Mapping[str, Ed25519PublicKey] = {}

    async def refresh(self) -> None:
        """Take the step of the rotation that is due, if any, and read the keys.

        Raises:
            FailedPrecondition: KEY_UNAVAILABLE, the active key cannot be opened.
        """
        async with self._database.read() as connection:
            keys = await SigningKeyRepository(connection).all()
        if self._due(keys):
            async with self._database.write() as connection:
                await self._step(connection)
            async with self._database.read() as connection:
                keys = await SigningKeyRepository(connection).all()
        active = next((key for key in keys if key.state is SigningKeyState.ACTIVE), None)
        if active is not None and (self._active is None or self._active[0] != active.kid):
            opened = self._vault.open(bindings.private_key(active.kid), active.sealed_private_key)
            self._active = active.kid, Ed25519PrivateKey.from_private_bytes(opened)
        self._published = {key.kid: Ed25519PublicKey.from_public_bytes(key.public_key) for key in keys}

    def _due(self, keys: list[SigningKey]) -> bool:
        now = self._clock()
        states = {key.state for key in keys}
        waits = {
            SigningKeyState.PENDING: self._publish,
            SigningKeyState.ACTIVE: self._lifetime,
            SigningKeyState.RETIRING: self._retire,
        }
        return SigningKeyState.ACTIVE not in states or any(
            now - key.changed_at >= waits[key.state]
            for key in keys
            if not (key.state is SigningKeyState.ACTIVE and SigningKeyState.PENDING in states)
        )

    async def _step(self, connection: AsyncConnection) -> None:
        repository = SigningKeyRepository(connection)
        keys = await repository.all()
        now = self._clock()
        active = next((key for key in keys if key.state is SigningKeyState.ACTIVE), None)
        pending = next((key for key in keys if key.state is SigningKeyState.PENDING), None)
        if active is None and pending is None:
            # No verifier has read the keys yet: the first key may sign at once.
            await self._add(connection, SigningKeyState.ACTIVE, now)
        elif pending is None and active is not None and now - active.changed_at >= self._lifetime:
            await self._add(connection, SigningKeyState.PENDING, now)
        elif pending is not None and (active is None or now - pending.changed_at >= self._publish):
            await self._promote(repository, active, pending, now)
        for key in keys:
            if key.state is SigningKeyState.RETIRING and now - key.changed_at >= self._retire:
                await repository.delete(key.kid)

    async def _promote(
        self, repository: SigningKeyRepository, active: SigningKey | None, pending: SigningKey, now: datetime
    ) -> None:
        if active is not None:
            retired = await repository.move(active.kid, SigningKeyState.ACTIVE, SigningKeyState.RETIRING, now)
            if not retired:
                return
        await repository.move(pending.kid, SigningKeyState.PENDING, SigningKeyState.ACTIVE, now)
        logger.info("signing_key_changed", kid=pending.kid)

    async def _add(self, connection: AsyncConnection, state: SigningKeyState, now: datetime) -> None:
        private = Ed25519PrivateKey.generate()
        raw = private.private_bytes(
            serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
        )
        kid = secrets.token_hex(8)
        key = SigningKey(
            kid=kid,
            state=state,
            public_key=private.public_key().public_bytes_raw(),
            sealed_private_key=await self._vault.seal(connection, bindings.private_key(kid), raw),
            created_at=now,
            changed_at=now,
        )
        if await SigningKeyRepository(connection).add(key):
            logger.info("signing_key_created", kid=kid, state=state)

    def signed(self, principal: Principal) -> Principal:
        """Return the principal with its signed token, which says when the principal was issued.

        Raises:
            Unavailable: the keys have not been read yet.
        """
        if self._active is None:
            raise Unavailable("auth has not read its signing keys yet", retry_after=1)
        kid, private = self._active
        return dataclasses.replace(principal, token=encode_principal(principal, private, kid))

    @property
    def published(self) -> Mapping[str, Ed25519PublicKey]:
        """Every key that is, was or is about to be in use, by key id."""
        return self._published
