"""The key that seals stored answers, and the hashes by which they are found.

Both come from the service's own key, which all its replicas have and no database holds. With another key old answers
are not found any more, and expire.
"""

import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.common.identity.service_identity import ServiceIdentity

_SALT_BYTES = 16
_NONCE_BYTES = 12


class AnswerKey:
    """Seals answers for their row, and hashes what they are found by: no prompt can be guessed from a row."""

    def __init__(self, identity: ServiceIdentity) -> None:
        self._seal = identity.derive("seal stored answers")
        self._hash = identity.derive("find stored answers")

    def hash(self, *parts: str) -> str:
        """Return a keyed hash (64 hex digits) of the parts, each with its length."""
        digest = hmac.new(self._hash, digestmod="sha256")
        for part in parts:
            encoded = part.encode()
            digest.update(len(encoded).to_bytes(4, "big") + encoded)
        return digest.hexdigest()

    def seal(self, row: str, plaintext: bytes) -> bytes:
        """Return `plaintext` sealed for the row of this name; in another one it does not open."""
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
        # A key of its own for each answer: no number of answers uses one up.
        return AESGCM(hmac.digest(self._seal, salt, "sha256"))
