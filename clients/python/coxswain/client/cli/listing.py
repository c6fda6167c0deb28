"""Lists of things, one line each at any width: cells are cut and columns left out as a whole, never folded."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp
    from rich.console import Console, ConsoleOptions
    from rich.text import Text

WHOLE_WIDTH = 4096
"""Width of pipes and of --wide: each line holds a whole row."""

_GAP = 2
_MIN_CUT = 10
_LEAST_CUT = 4
# What one goes on with, or looks for first.
_KEPT = frozenset({"id", "name", "memory id", "memory", "state", "service", "method", "cost"})
# What other commands are given: half a name is of no use, so these are cut last.
_NAMES = frozenset({"id", "name", "model", "group", "cron", "zone"})
_NAMES_SHARE = 5 / 6
_UNITS = (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("m", timedelta(minutes=1)))


class When:
    """A time: by its distance where lines are short, in UTC where they are whole. Empty for one that is not set."""

    def __init__(self, moment: Timestamp, whole: str = "") -> None:
        """``whole`` is the time as it is written in another zone."""
        at = moment.ToDatetime(UTC) if moment.ByteSize() else None
        self.whole = (whole or f"{at:%Y-%m-%d %H:%M:%S}") if at else ""
        self.distance = _distance(datetime.now(UTC) - at) if at else ""

    def __str__(self) -> str:
        return self.whole


def _distance(passed: timedelta) -> str:
    ahead = passed < timedelta()
    size = abs(passed)
    text = next((f"{size // unit}{name}" for name, unit in _UNITS if size >= unit), f"{size.seconds}s")
    return f"in {text}" if ahead else text


class Listing:
    """A table with one line for each row; ``>`` before a column's name aligns it to the right.

    A terminal that is too narrow first cuts long texts, then leaves out columns from the right, but never the first one
    and those that people go on with, such as ids. Names are cut where they would fill nearly all of it, or where an id
    stands beside them; ids are cut last of all.
    """

    def __init__(self, *columns: str) -> None:
        self._names = [column.removeprefix(">") for column in columns]
        self._right = [column.startswith(">") for column in columns]
        self._rows: list[tuple[Text | When, ...]] = []

    def add_row(self, *cells: Text | When) -> None:
        """Add a row of one cell for each column."""
        self._rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        # Help of commands that list needs nothing of rich.
        from rich.text import Text

        whole = options.max_width >= WHOLE_WIDTH
        rows = [[_line(cell, whole=whole) for cell in row] for row in self._rows]
        header = [Text(name, style="bold") for name in self._names]
        widths = [max(row[n].cell_len for row in [header, *rows]) for n in range(len(header))]
        shown = list(range(len(header)))
        if not whole:
            shown, widths = self._fit(widths, options.max_width)
        for row in [header, *rows]:
            yield self._joined(row, shown, widths)

    def _fit(self, widths: list[int], room: int) -> tuple[list[int], list[int]]:
        shown = list(range(len(widths)))
        while True:
            cut = _cut([n for n in shown if self._is_cut_first(n, widths, room)], shown, widths, room, _MIN_CUT)
            if _total(shown, cut) <= room:
                return shown, cut
            spare = [n for n in shown[1:] if self._names[n] not in _KEPT]
            if not spare:
                break
            shown.remove(spare[-1])
        for are_ids in (False, True):
            texts = [n for n in shown if not self._right[n] and (self._names[n] == "id") == are_ids]
            widths = _cut(texts, shown, widths, room, _LEAST_CUT)
        return shown, widths

    def _is_cut_first(self, column: int, widths: list[int], room: int) -> bool:
        """Whether a column may be cut before others are left out, as numbers, ids and names that fit may not."""
        name = self._names[column]
        is_whole = name == "id" or (name in _NAMES and widths[column] <= room * _NAMES_SHARE)
        return not self._right[column] and not is_whole

    def _joined(self, row: list[Text], shown: list[int], widths: list[int]) -> Text:
        from rich.text import Text

        line = Text(no_wrap=True, overflow="ignore", end="\n")
        for n in shown:
            cell = row[n].copy()
            cell.truncate(widths[n], overflow="ellipsis")
            blanks = " " * (widths[n] - cell.cell_len)
            line.append(" " * _GAP if n != shown[0] else "")
            if self._right[n]:
                line.append(blanks)
            line.append_text(cell)
            # Nothing pads the end of a line: a pipe would carry the width of its longest cell in every row.
            if not self._right[n] and n != shown[-1]:
                line.append(blanks)
        line.rstrip()
        return line


def _cut(texts: list[int], shown: list[int], widths: list[int], room: int, least: int) -> list[int]:
    """Widths with the widest of ``texts`` cut until all that is shown fits, each to ``least`` at most."""
    cut = list(widths)
    while texts and (over := _total(shown, cut) - room) > 0:
        widest = max(texts, key=lambda n: cut[n])
        if cut[widest] <= least:
            break
        following = max((cut[n] for n in texts if cut[n] < cut[widest]), default=least)
        cut[widest] -= max(1, min(over, cut[widest] - max(least, following)))
    return cut


def _line(cell: Text | When, *, whole: bool) -> Text:
    from rich.text import Text

    if isinstance(cell, When):
        return Text(cell.whole if whole else cell.distance)
    if any(control in cell.plain for control in "\n\t"):
        return Text(" ".join(cell.plain.split()), style=cell.style)
    return cell


def _total(shown: list[int], widths: list[int]) -> int:
    return sum(widths[n] for n in shown) + _GAP * (len(shown) - 1)
