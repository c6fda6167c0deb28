"""Reading the rows of an answer: one that is no record is left out and counted, and never decides over the others."""

import structlog
from prometheus_client import Counter

from services.common.counts import from_the_start
from services.memory.domain.records import MemoryKind, Record
from services.memory.rows.parsing import UnreadableRow, parse_row
from services.memory.rows.row import Row

logger = structlog.get_logger(__name__)
_UNREADABLE_ROWS = from_the_start(
    Counter(
        "coxswain_memory_unreadable_rows_total",
        "Rows that could not be read as records and were left out of answers.",
        ("kind", "store"),
    ),
    [kind.name for kind in MemoryKind],
    ("default", "databricks", "chroma"),
)


class RecordReader:
    """Reads the rows of one answer."""

    def __init__(self, kind: MemoryKind, store: str) -> None:
        """`store` names the kind of store in metrics and logs. Example: `databricks`."""
        self._kind = kind
        self._store = store
        self.unreadable = 0
        """Rows so far that are no records."""

    def read(self, row: Row) -> Record | None:
        """Return the record of a row, or None."""
        try:
            return parse_row(self._kind, row)
        except UnreadableRow as error:
            self.leave_out(1, str(error))
            return None

    def leave_out(self, rows: int, why: str) -> None:
        """Count rows that are no records."""
        # Said once for each answer, and without what the row holds: it is somebody's memory.
        if not self.unreadable:
            logger.warning("unreadable_row", kind=self._kind.name, store=self._store, why=why)
        self.unreadable += rows
        _UNREADABLE_ROWS.labels(self._kind.name, self._store).inc(rows)
