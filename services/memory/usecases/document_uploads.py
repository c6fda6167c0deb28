"""Files of documents while they are received and read: each is held in memory, and all of them are bounded."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from services.common.errors import DeadlineExceeded, Unavailable

RETRY_SECONDS = 5.0
"""When a save that was refused for load may be tried again."""
_GROUP_PART = 4
"""A group's files hold at most this part of all bytes, or as many as one file may have."""


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What may arrive."""

    document_bytes: int
    group_saves: int
    """Saves of one group at the same time."""
    all_bytes: int
    """Bytes of all files that are held at the same time."""
    upload_seconds: float
    """For receiving one file."""

    @property
    def group_bytes(self) -> int:
        """Bytes of a group's files that are held at the same time."""
        return max(self.document_bytes, self.all_bytes // _GROUP_PART)


class Uploads:
    """Documents that are being saved, and the files among them that are held in memory."""

    def __init__(self, limits: UploadLimits) -> None:
        self._limits = limits
        self._saves: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    @contextmanager
    def place(self, group_id: str) -> Iterator[None]:
        """Count a save of a group until it has ended.

        Raises:
            Unavailable: the group saves as many already as it may.
        """
        if self._saves[group_id] >= self._limits.group_saves:
            raise _overloaded(
                f"{self._limits.group_saves} documents of your group are being saved; save them one after another"
            )
        self._saves[group_id] += 1
        try:
            yield
        finally:
            self._saves[group_id] -= 1
            self._saves += Counter()

    @contextmanager
    def file(self, group_id: str) -> Iterator["UploadedFile"]:
        """Give room to a file of a group until it was read."""
        held = UploadedFile(self, group_id)
        try:
            yield held
        finally:
            self._bytes[group_id] -= len(held.content)
            self._bytes += Counter()
            # Who still knows the file holds its bytes no more.
            held.content = bytearray()

    async def timely(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the chunks of a file while there is time for them.

        Raises:
            DeadlineExceeded: the file comes too slowly.
        """
        loop, seconds = asyncio.get_running_loop(), self._limits.upload_seconds
        ends = loop.time() + seconds
        while loop.time() < ends:
            try:
                async with asyncio.timeout_at(ends):
                    chunk = await anext(chunks, None)
            except TimeoutError:
                break
            if chunk is None:
                return
            yield chunk
        raise DeadlineExceeded(
            f"the file has not come within {seconds:g} s; send it faster, or divide it",
            reason="STREAM_IDLE",
            metadata={"seconds": f"{seconds:g}"},
        )

    def take(self, group_id: str, size: int) -> None:
        """Count bytes of a group that are to be held.

        Raises:
            Unavailable: the group, or all together, hold too many already.
        """
        if self._bytes[group_id] + size > self._limits.group_bytes:
            raise _overloaded(
                f"the files of your group that are being received take {self._limits.group_bytes:,} bytes; save them "
                "one after another"
            )
        if self._bytes.total() + size > self._limits.all_bytes:
            raise _overloaded("too many documents are being saved at the moment; try again")
        self._bytes[group_id] += size


class UploadedFile:
    """The bytes of a file as they come."""

    def __init__(self, uploads: Uploads, group_id: str) -> None:
        self._uploads = uploads
        self._group_id = group_id
        self.content = bytearray()
        self.sha256 = hashlib.sha256()

    def add(self, chunk: bytes) -> None:
        """Add the next bytes."""
        self._uploads.take(self._group_id, len(chunk))
        self.content += chunk
        self.sha256.update(chunk)


def _overloaded(what: str) -> Unavailable:
    return Unavailable(what, reason="OVERLOADED", retry_after=RETRY_SECONDS)
