"""Rows of another owner among those a store returned: a fault of the store, which must not show them to anybody."""

import structlog
from prometheus_client import Counter

from services.memory.domain.records import MemoryKind

logger = structlog.get_logger(__name__)
_FOREIGN_ROWS = Counter(
    "coxswain_memory_foreign_rows_total", "Rows of other owners that a vector store returned, and that were dropped"
)


def note_foreign_row(kind: MemoryKind) -> None:
    """Log and count a row that is dropped."""
    _FOREIGN_ROWS.inc()
    logger.critical("foreign_row_dropped", kind=kind.name)
