"""Files of documents while they are received and read: each is held in memory, and all of them are bounded."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from services.common.errors import Unavailable

RETRY_SECONDS = 5.0
"""When a save that was refused for load may be tried again."""


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What may arrive."""

    document_bytes: int
    group_saves: int
    """Saves of one group at the same time."""
    all_bytes: int
    """Bytes of all files that are held at the same time."""


class Uploads:
    """Files that are being received or read, which are held in memory."""

    def __init__(self, limits: UploadLimits) -> None:
        self._limits = limits
        self._saves: Counter[str] = Counter()
        self._bytes = 0

    @contextmanager
    def file(self, group_id: str) -> Iterator["UploadedFile"]:
        """Give a place to a file of a group.

        Raises:
            Unavailable: the group has all of its places in use.
        """
        if self._saves[group_id] >= self._limits.group_saves:
            raise Unavailable(
                f"{self._limits.group_saves} documents of your group are being saved; save them one after another",
                reason="OVERLOADED",
                retry_after=RETRY_SECONDS,
            )
        self._saves[group_id] += 1
        held = UploadedFile(self)
        try:
            yield held
        finally:
            self._saves[group_id] -= 1
            self._saves += Counter()
            self._bytes -= len(held.content)

    def take(self, size: int) -> None:
        """Count bytes that are to be held.

        Raises:
            Unavailable: too many are held already.
        """
        if self._bytes + size > self._limits.all_bytes:
            raise Unavailable(
                "too many documents are being saved at the moment; try again",
                reason="OVERLOADED",
                retry_after=RETRY_SECONDS,
            )
        self._bytes += size


class UploadedFile:
    """The bytes of a file as they come."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads
        self.content = bytearray()
        self.sha256 = hashlib.sha256()

    def add(self, chunk: bytes) -> None:
        """Add the next bytes."""
        self._uploads.take(len(chunk))
        self.content += chunk
        self.sha256.update(chunk)
