"""Tables without blanks at the ends of lines."""

from collections.abc import Iterator
from typing import cast

from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.table import Table


class UnpaddedTable(Table):
    """Without blanks at the ends of lines: in a pipe they would be as wide as the longest cell."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        segments = cast("Iterator[Segment]", super().__rich_console__(console, options))
        for line in Segment.split_lines(segments):
            while line and not line[-1].text.strip():
                line.pop()
            if line:
                line[-1] = Segment(line[-1].text.rstrip(), line[-1].style)
            yield from line
            yield Segment.line()
