"""The key ring in use: which key seals is written in the database, so that all replicas agree."""

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.domain import Sealed
from services.auth.keys.ring import KeyRing, key_unavailable
from services.auth.keys.sealing import Binding, Sealer
from services.auth.repositories.encryption_keys import EncryptionKeyRepository
from services.auth.repositories.sealed_rows import SealedRowRepository
from services.common.db.database import Database

logger = structlog.get_logger(__name__)


class Vault:
    """Seals what is written and opens what is read."""

    def __init__(self, database: Database, ring: KeyRing) -> None:
        self._database = database
        self._sealer = Sealer(ring)
        self.ring = ring
        self.sealing = ring.newest
        """The key that sealed when this replica last looked: good enough to choose a hash by, not to seal with."""

    async def start(self) -> None:
        """Compare the ring with the keys that have been used, and remember its new ones.

        A new key only becomes known: it seals once rotation says so, when every replica has it.

        Raises:
            FailedPrecondition: KEY_UNAVAILABLE, a key differs from the one of the same id that was used before, or the
                key that seals is not in the ring.
        """
        async with self._database.write() as connection:
            keys = EncryptionKeyRepository(connection)
            for key in await keys.all():
                if key.key_id in self.ring:
                    self._sealer.verify(key.key_id, key.check_value)
            if not any(key.sealing for key in await keys.all()):
                await self._remember(keys, self.ring.newest, sealing=True)
            known = await keys.all()
            sealing = next(key for key in known if key.sealing)
            if sealing.key_id not in self.ring:
                raise key_unavailable(sealing.key_id, "seals this database and is not in the key ring")
            self._sealer.verify(sealing.key_id, sealing.check_value)
            for key_id in set(self.ring) - {key.key_id for key in known}:
                await self._remember(keys, key_id, sealing=False)
            used = await SealedRowRepository(connection).count_by_key()
        self.sealing = sealing.key_id
        for key_id in set(used) - set(self.ring):
            logger.error("encryption_key_missing", key_id=key_id, values=used[key_id])

    async def _remember(self, keys: EncryptionKeyRepository, key_id: str, *, sealing: bool) -> None:
        await keys.add(key_id, self._sealer.check_value(key_id), sealing=sealing)

    async def turn_to_newest(self) -> str:
        """Make the newest key of the ring the sealing one, and return its id.

        Raises:
            FailedPrecondition: KEY_UNAVAILABLE, this replica lacks the key that seals now: its ring is out of date.
        """
        newest = self.ring.newest
        async with self._database.write() as connection:
            keys = EncryptionKeyRepository(connection)
            sealing = await keys.sealing_key_id()
            if sealing not in self.ring:
                raise key_unavailable(sealing, "seals this database and is not in the key ring")
            if sealing != newest:
                await keys.seal_with(newest)
                logger.info("encryption_key_changed", key_id=newest, previous_key_id=sealing)
        self.sealing = newest
        return newest

    async def seal(self, connection: AsyncConnection, binding: Binding, plaintext: bytes) -> Sealed:
        """Return `plaintext` sealed under the key that seals now.

        Raises:
            FailedPrecondition: KEY_UNAVAILABLE, this replica does not have that key.
        """
        self.sealing = await EncryptionKeyRepository(connection).sealing_key_id()
        return self._sealer.seal(self.sealing, binding, plaintext)

    def seal_under(self, key_id: str, binding: Binding, plaintext: bytes) -> Sealed:
        """Return `plaintext` sealed under the key named.

        Raises:
            FailedPrecondition: KEY_UNAVAILABLE, this replica does not have that key.
        """
        return self._sealer.seal(key_id, binding, plaintext)

    def open(self, binding: Binding, sealed: Sealed) -> bytes:
        """Return what was sealed for this binding.

        Raises:
            FailedPrecondition: KEY_UNAVAILABLE, it cannot be opened with the keys at hand.
        """
        return self._sealer.open(binding, sealed)

    def hash(self, key_id: str, purpose: str, *parts: str) -> str:
        """Return a keyed hash (64 hex digits) under the key named."""
        return self._sealer.hash(key_id, purpose, *parts)
