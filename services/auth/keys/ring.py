"""The versioned key ring: the keys that seal everything auth keeps secret."""

import base64
import binascii
import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.common.errors import FailedPrecondition

KEY_BYTES = 32
_KEY_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")


class KeyRingError(Exception):
    """The key ring cannot be used; the text says why and never holds a key."""


def key_unavailable(key_id: str, why: str) -> FailedPrecondition:
    """Return the failure of something sealed under a key that is missing or is another one."""
    return FailedPrecondition(
        f'the key "{key_id}" {why}; put the right key back into the key ring',
        reason="KEY_UNAVAILABLE",
        metadata={"key_id": key_id},
    )


class KeyRing:
    """Keys by id, oldest first. The newest is the one that rotation turns to."""

    def __init__(self, keys: Iterable[tuple[str, bytes]]) -> None:
        """
        Raises:
            KeyRingError: no key, a malformed or repeated id, or a key that is not 32 bytes long.
        """
        self._keys: dict[str, bytes] = {}
        for key_id, key in keys:
            if not _KEY_ID.match(key_id):
                raise KeyRingError("a key id must be 1 to 64 letters, digits, dots, dashes or underscores")
            if key_id in self._keys:
                raise KeyRingError(f'the key "{key_id}" is in the ring twice')
            if len(key) != KEY_BYTES:
                raise KeyRingError(f'the key "{key_id}" is {len(key)} bytes long; a key must be {KEY_BYTES} bytes long')
            if key in self._keys.values():
                raise KeyRingError(f'the key "{key_id}" has the same bytes as another one')
            self._keys[key_id] = key
        if not self._keys:
            raise KeyRingError("the key ring holds no key; write at least one id:base64")

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __contains__(self, key_id: object) -> bool:
        return key_id in self._keys

    def __repr__(self) -> str:
        return f"KeyRing({list(self._keys)})"

    @property
    def newest(self) -> str:
        """The id of the key that was added last."""
        return next(reversed(self._keys))

    def derive(self, key_id: str, purpose: str) -> bytes:
        """Return 32 bytes that belong to one key and one purpose, so that no key serves two.

        Raises:
            FailedPrecondition: KEY_UNAVAILABLE, the ring lacks the key.
        """
        key = self._keys.get(key_id)
        if key is None:
            raise key_unavailable(key_id, "is not in the key ring")
        return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=b"coxswain-auth:" + purpose.encode()).derive(key)

    @classmethod
    def parse(cls, text: str) -> "KeyRing":
        """Return the ring written as `id:base64` entries, oldest first, separated by commas or line ends.

        A line that begins with `#` is a comment.

        Raises:
            KeyRingError: as the constructor, or an entry is malformed.
        """
        keys = []
        for line in text.splitlines():
            if line.strip().startswith("#"):
                continue
            for entry in filter(None, map(str.strip, line.split(","))):
                key_id, separator, encoded = entry.partition(":")
                if not separator:
                    raise KeyRingError("an entry of the key ring must be written id:base64")
                try:
                    keys.append((key_id.strip(), base64.b64decode(encoded.strip(), validate=True)))
                except binascii.Error:
                    raise KeyRingError(f'the key "{key_id.strip()[:64]}" is not valid base64') from None
        return cls(keys)

    @classmethod
    def read(cls, path: Path) -> "KeyRing":
        """Return the ring in a file.

        Raises:
            KeyRingError: the file cannot be read, or as `parse`.
        """
        try:
            return cls.parse(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise KeyRingError(f"the key ring file {path} cannot be read: {type(error).__name__}") from None

    @classmethod
    def read_or_create(cls, path: Path) -> "KeyRing":
        """Return the ring in a file of this machine's user, made with one fresh key when there is none.

        Raises:
            KeyRingError: others may read the file, or as `read`.
        """
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            written = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
            descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "w", encoding="ascii") as file:
                    file.write(f"local-1:{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}\n")
                    file.flush()
                    os.fsync(file.fileno())
                # A link appears at once and whole; a second process uses the first one's.
                with contextlib.suppress(FileExistsError):
                    os.link(written, path)
            finally:
                written.unlink()
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise KeyRingError(f"the key ring file {path} may be read by others; run: chmod 600 {path}")
        return cls.read(path)
