"""The parts of a table of comma-separated values: whole rows as they stand, as many as fit below the table's header."""

import csv
from collections.abc import Iterator

from services.memory.parsing.spans import Span, split_range

_SAMPLE_CHARACTERS = 64 * 1024
_DELIMITERS = ",;\t|"
_LEAST_ROOM = 4
"""A row has at least this part of the size, however long the header is."""


def split_table(text: str, size: int, delimiter: str = "") -> tuple[str, Iterator[Span]]:
    """Return the header that every part repeats, and where the rows of each part are; sizes count both.

    Raises:
        ValueError: the text is no table.
    """
    rows = _rows(text, delimiter or _delimiter(text))
    first = next(rows, None)
    if first is None:
        return "", iter(())
    header = text[first[0] : first[1]].strip("\n")[: size // 2]
    return header, _split(text, rows, first, max(size - len(header) - 1, size // _LEAST_ROOM))


def _split(text: str, rows: Iterator[tuple[int, int]], first: tuple[int, int], room: int) -> Iterator[Span]:
    start = end = first[1]
    if first[1] >= len(text.rstrip()) or first[1] - first[0] > room:
        # A table of a header alone, or one whose header is more than a part repeats.
        start = first[0]
    for row_start, row_end in rows:
        if row_end - start > room and end > start:
            yield from _pieces(text, start, end, room)
            start = row_start
        end = row_end
    yield from _pieces(text, start, end, room)


def _pieces(text: str, start: int, end: int, room: int) -> Iterator[Span]:
    for piece_start, piece_end in split_range(text, start, end, room, 0):
        yield Span(piece_start, piece_end)


def _rows(text: str, delimiter: str) -> Iterator[tuple[int, int]]:
    """Yield where each row begins and ends; one may have several lines."""
    others_limit = csv.field_size_limit(len(text) + 1)
    position = 0
    reached = 0

    def lines() -> Iterator[str]:
        nonlocal reached
        for line in text.splitlines(keepends=True):
            reached += len(line)
            yield line

    try:
        for _ in csv.reader(lines(), delimiter=delimiter):
            yield position, reached
            position = reached
    except csv.Error as error:
        raise ValueError(f"it is not a table of comma-separated values ({error}); save it as CSV again") from error
    finally:
        # It is the whole process's.
        csv.field_size_limit(others_limit)


def _delimiter(text: str) -> str:
    """Return the character that the first row has most of."""
    first = text[:_SAMPLE_CHARACTERS].partition("\n")[0]
    return max(_DELIMITERS, key=first.count)
