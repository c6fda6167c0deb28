"""Signatures of agent cards: JWS over their canonical JSON, without the signatures (RFC 7515 and RFC 8785)."""

import base64
import hashlib
import json
from typing import Any

from a2a.types import a2a_pb2 as pb
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import json_format


class CardSigner:
    """Signs cards with one key, which all replicas have."""

    def __init__(self, seed: bytes, keys_url: str) -> None:
        """`seed` are the 32 bytes of an Ed25519 key; `keys_url` is where others find its public half."""
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        public = {"crv": "Ed25519", "kty": "OKP", "x": _base64url(self._key.public_key().public_bytes_raw())}
        # As RFC 7638 names keys.
        self._key_id = _base64url(hashlib.sha256(_canonical(public)).digest())
        self._public = public
        self._protected = _base64url(_canonical({"alg": "EdDSA", "typ": "JOSE", "kid": self._key_id, "jku": keys_url}))

    @property
    def keys(self) -> bytes:
        """The set of keys that cards are signed with, as a JSON document."""
        described = {**self._public, "kid": self._key_id, "alg": "EdDSA", "use": "sig"}
        return _canonical({"keys": [described]})

    def sign(self, card: pb.AgentCard) -> None:
        """Add the signature of a card that has none."""
        document = _without_empty(json_format.MessageToDict(card))
        signed = f"{self._protected}.{_base64url(_canonical(document))}"
        card.signatures.add(protected=self._protected, signature=_base64url(self._key.sign(signed.encode())))


def _without_empty(value: Any) -> Any:
    """Leave out what is empty, as the protocol says: whoever verifies cannot tell it from what was left out."""
    if isinstance(value, dict):
        named = {name: _without_empty(one) for name, one in value.items()}
        return {name: one for name, one in named.items() if one not in ("", [], {}, None)}
    if isinstance(value, list):
        return [one for each in value if (one := _without_empty(each)) not in ("", [], {}, None)]
    return value


def _canonical(value: Any) -> bytes:
    """Return the canonical JSON of a document without numbers, which cards do not have."""
    return json.dumps(_sorted(value), ensure_ascii=False, separators=(",", ":")).encode()


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        # In the order of UTF-16 code units.
        return {name: _sorted(value[name]) for name in sorted(value, key=lambda name: name.encode("utf-16-be"))}
    return [_sorted(one) for one in value] if isinstance(value, list) else value


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
