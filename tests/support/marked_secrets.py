"""Secrets that can be recognised wherever they turn up, however they are written there."""

import base64
from collections.abc import Callable, Iterator
from urllib.parse import quote


class MarkedSecrets:
    """Secrets by name, and the search for them in clear, hexadecimal, base64 and URL-encoded form."""

    def __init__(self) -> None:
        self._forms: dict[str, dict[bytes, str]] = {}

    def add(self, name: str, secret: str) -> str:
        """Remember a secret and return it. Half of it counts as the whole, and of a signed token the signature does."""
        forms = self._forms.setdefault(name, {})
        telling = secret.rpartition(".")[2] if secret.count(".") == 2 else secret
        half = len(telling) // 2
        for part in (secret, telling[:half], telling[half:]):
            forms |= _forms(part.encode())
        return secret

    def found_in(self, content: bytes | str) -> list[str]:
        """Return the name and the form of each secret that stands in `content`."""
        raw = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        return [f"{name} ({how})" for name, forms in self._forms.items() for form, how in forms.items() if form in raw]


def _forms(secret: bytes) -> dict[bytes, str]:
    digits = secret.hex().encode()
    forms = {secret: "clear", digits: "hex", digits.upper(): "hex", quote(secret, safe="").encode(): "URL-encoded"}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        forms |= dict.fromkeys(_base64_forms(secret, encode), "base64")
    return forms | {secret: "clear"}


def _base64_forms(secret: bytes, encode: Callable[[bytes], bytes]) -> Iterator[bytes]:
    """The digits that depend on the secret alone, wherever in an encoded text it begins."""
    for before in range(3):
        encoded = encode(bytes(before) + secret).rstrip(b"=")
        shared_with_next = (before + len(secret)) % 3 != 0
        yield encoded[(0, 2, 3)[before] : -1 if shared_with_next else None]
