"""Envelope encryption: a fresh data key for each write, sealed by a key of the ring and bound to its row."""

import hmac
import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.auth.domain import Sealed
from services.auth.keys.ring import KEY_BYTES, KeyRing, key_unavailable

_FORMAT = b"\x01"
_NONCE_BYTES = 12
_TAG_BYTES = 16
_HEADER_BYTES = len(_FORMAT) + _NONCE_BYTES + KEY_BYTES + _TAG_BYTES + _NONCE_BYTES
_CHECK_TEXT = b"coxswain-auth key check"


@dataclass(frozen=True, slots=True)
class Binding:
    """The row a sealed value belongs to: moved to another, it does not open."""

    table: str
    row: str
    group: str = ""
    name: str = ""
    version: int = 0

    def associated_data(self, key_id: str, layer: str) -> bytes:
        """Return the bytes that are authenticated with the value; each part is preceded by its length."""
        parts = ("coxswain-auth", layer, self.table, self.row, self.group, self.name, str(self.version), key_id)
        encoded = [part.encode() for part in parts]
        return b"".join(len(part).to_bytes(4, "big") + part for part in encoded)


class Sealer:
    """Seals and opens with the keys of one ring."""

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring
        # Expanding a key costs more than opening a small value.
        self._ciphers: dict[str, AESGCM] = {}

    def _cipher(self, key_id: str) -> AESGCM:
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            cipher = self._ciphers[key_id] = AESGCM(self.ring.derive(key_id, "seal"))
        return cipher

    def seal(self, key_id: str, binding: Binding, plaintext: bytes) -> Sealed:
        """Return `plaintext` sealed under the key.

        Raises:
            FailedPrecondition: KEY_UNAVAILABLE, the ring lacks the key.
        """
        data_key, key_nonce, nonce = os.urandom(KEY_BYTES), os.urandom(_NONCE_BYTES), os.urandom(_NONCE_BYTES)
        wrapped = self._cipher(key_id).encrypt(key_nonce, data_key, binding.associated_data(key_id, "key"))
        sealed = AESGCM(data_key).encrypt(nonce, plaintext, binding.associated_data(key_id, "value"))
        return Sealed(key_id, b"".join((_FORMAT, key_nonce, wrapped, nonce, sealed)))

    def open(self, binding: Binding, sealed: Sealed) -> bytes:
        """Return what was sealed for this binding.

        Raises:
            FailedPrecondition: KEY_UNAVAILABLE, the ring lacks the key, has another one under its id, or the value was
                changed or moved.
        """
        cipher = self._cipher(sealed.key_id)
        blob = sealed.blob
        if blob[:1] != _FORMAT or len(blob) < _HEADER_BYTES + _TAG_BYTES:
            raise key_unavailable(sealed.key_id, "cannot open a value of an unknown format")
        key_start = 1 + _NONCE_BYTES
        nonce_start = key_start + KEY_BYTES + _TAG_BYTES
        try:
            data_key = cipher.decrypt(
                blob[1:key_start], blob[key_start:nonce_start], binding.associated_data(sealed.key_id, "key")
            )
            return AESGCM(data_key).decrypt(
                blob[nonce_start:_HEADER_BYTES], blob[_HEADER_BYTES:], binding.associated_data(sealed.key_id, "value")
            )
        except InvalidTag:
            raise key_unavailable(sealed.key_id, "does not open a value sealed under its id") from None

    def hash(self, key_id: str, purpose: str, *parts: str) -> str:
        """Return a keyed hash (64 hex digits) of the parts, each with its length.

        Raises:
            FailedPrecondition: KEY_UNAVAILABLE, the ring lacks the key.
        """
        digest = hmac.new(self.ring.derive(key_id, f"hash:{purpose}"), digestmod="sha256")
        for part in parts:
            encoded = part.encode()
            digest.update(len(encoded).to_bytes(4, "big") + encoded)
        return digest.hexdigest()

    def check_value(self, key_id: str) -> bytes:
        """Return a known text sealed under the key, by which another process proves that it has the same key."""
        return self.seal(key_id, Binding("encryption_keys", key_id), _CHECK_TEXT).blob

    def verify(self, key_id: str, check_value: bytes) -> None:
        """Check that the ring's key of this id is the one that made `check_value`.

        Raises:
            FailedPrecondition: KEY_UNAVAILABLE, it is missing or another one.
        """
        self.open(Binding("encryption_keys", key_id), Sealed(key_id, check_value))
