"""The service's end of the processes that read documents."""

import asyncio
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.common.reading.reader import BoundedReader

PARSER_VERSION: Final = 1
"""Rises when the same file makes other parts than before: it is then split anew when it is saved again."""
_PROGRAM = Path(__file__).with_name("process.py")
_LONGEST_SECONDS = 600.0
"""For a reading and those of other groups before it; each is ended much earlier by its processor time."""


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """What a document may be."""

    characters: int
    parts: int
    cpu_seconds: int
    processes: int
    group_readings: int
    """Documents of one group that are read at the same time."""


@dataclass(frozen=True, slots=True)
class ReadPart:
    """A part of a document."""

    content: str
    start: int
    """Its first character's position in the text; what every part begins with does not count."""
    page: int
    section: str


@dataclass(frozen=True, slots=True)
class ReadDocument:
    """What was found in a file."""

    title: str
    characters: int
    pages: int
    parts: Sequence[ReadPart]


class DocumentReader:
    """Reads documents in a few processes, so that no group holds up the others for long."""

    def __init__(self, limits: ReadLimits) -> None:
        self._limits = limits
        self._readers = [
            BoundedReader(_PROGRAM, cpu_seconds=limits.cpu_seconds, longest_seconds=_LONGEST_SECONDS)
            for _ in range(limits.processes)
        ]
        self._busy = [0] * limits.processes
        self._groups: weakref.WeakValueDictionary[str, asyncio.Semaphore] = weakref.WeakValueDictionary()

    async def read(
        self, group_id: str, content: bytes, media_type: str, charset: str, chunk: int, overlap: int
    ) -> ReadDocument:
        """Return what is found in a file, split into parts of at most `chunk` characters.

        Raises:
            CannotRead: it cannot be read, or not with the time and memory that a reading has.
        """
        turn = self._groups.get(group_id)
        if turn is None:
            turn = self._groups[group_id] = asyncio.Semaphore(self._limits.group_readings)
        async with turn:
            chosen = self._busy.index(min(self._busy))
            self._busy[chosen] += 1
            try:
                found = await self._readers[chosen].read(
                    group_id,
                    "document",
                    content,
                    media_type=media_type,
                    charset=charset,
                    chunk_characters=chunk,
                    overlap_characters=overlap,
                    most_characters=self._limits.characters,
                    most_parts=self._limits.parts,
                )
            finally:
                self._busy[chosen] -= 1
        return await asyncio.to_thread(_document_of, found)

    async def close(self) -> None:
        """End the processes."""
        for reader in self._readers:
            await reader.close()


def _document_of(found: Mapping[str, Any]) -> ReadDocument:
    text, header = found["text"], found["header"]
    before = f"{header}\n" if header else ""
    parts = [ReadPart(before + text[start:end], start, page, section) for start, end, page, section in found["parts"]]
    return ReadDocument(found["title"], len(text), found["pages"], parts)
