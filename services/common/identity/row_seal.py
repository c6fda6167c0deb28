"""Seals what rows hold, with keys that a service's own key gives: all its replicas have them, and no database does."""

import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.common.identity.service_identity import ServiceIdentity

_SALT_BYTES = 16
_NONCE_BYTES = 12


class RowSeal:
    """Seals values for the row they belong to: in another one they do not open."""

    def __init__(self, identity: ServiceIdentity, purpose: str) -> None:
        """`purpose` sets the keys apart from those of other tables."""
        self._key = identity.derive(purpose)

    def seal(self, row: str, plaintext: bytes) -> bytes:
        """Return `plaintext` sealed for the row of this name."""
        salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
        return salt + nonce + self._cipher(salt).encrypt(nonce, plaintext, row.encode())

    def open(self, row: str, sealed: bytes) -> bytes | None:
        """Return what was sealed for this row; None when it was sealed with another key, or changed."""
        salt, nonce = sealed[:_SALT_BYTES], sealed[_SALT_BYTES : _SALT_BYTES + _NONCE_BYTES]
        try:
            return self._cipher(salt).decrypt(nonce, sealed[_SALT_BYTES + _NONCE_BYTES :], row.encode())
        except (InvalidTag, ValueError):
            return None

    def _cipher(self, salt: bytes) -> AESGCM:
        # A key of its own for each value: no number of values uses one up.
        return AESGCM(hmac.digest(self._key, salt, "sha256"))
