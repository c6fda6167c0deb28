"""The key that seals stored answers, and the hashes by which they are found.

Both come from the service's own key, which all its replicas have and no database holds. With another key old answers
are not found any more, and expire.
"""

import hmac

from services.common.identity.row_seal import RowSeal
from services.common.identity.service_identity import ServiceIdentity


class AnswerKey:
    """Seals answers for their row, and hashes what they are found by: no prompt can be guessed from a row."""

    def __init__(self, identity: ServiceIdentity) -> None:
        self._seal = RowSeal(identity, "seal stored answers")
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
        return self._seal.seal(row, plaintext)

    def open(self, row: str, sealed: bytes) -> bytes | None:
        """Return what was sealed for this row; None when it was sealed with another key, or changed."""
        return self._seal.open(row, sealed)
