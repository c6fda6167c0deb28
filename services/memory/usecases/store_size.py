"""How large the installation's own store of memories is, for metrics."""

from typing import Any

from prometheus_client import Gauge
from sqlalchemy import Select, func, literal_column, select, text

from services.common.db.access import DatabaseAccess
from services.memory.domain.records import MemoryKind
from services.memory.tables import namespaces

_RECORDS = Gauge("coxswain_memory_records", "Records in the installation's own store, by kind.", ("kind",))
_NAMESPACES = Gauge("coxswain_memory_namespaces", "Namespaces in the installation's own store, by kind.", ("kind",))
_BYTES = Gauge("coxswain_memory_store_bytes", "Bytes of the memory service's database, indexes included.")

_COUNTS = (
    select(namespaces.c.kind, func.count().label("namespaces"), func.sum(namespaces.c.record_count).label("records"))
    # Without those that were cleared, and those of kinds there are not.
    .where(namespaces.c.embedding_dimension > 0, namespaces.c.kind.in_(list(MemoryKind)))
    .group_by(namespaces.c.kind)
)
_SIZES: dict[str, Select[Any]] = {
    "sqlite": select(literal_column("page_count * page_size").label("bytes")).select_from(
        text("pragma_page_count(), pragma_page_size()")
    ),
    "postgresql": select(literal_column("sum(pg_total_relation_size(oid))").label("bytes"))
    .select_from(text("pg_catalog.pg_class"))
    .where(text("relnamespace = CAST('memory' AS regnamespace) AND relkind IN ('r', 'm')")),
}


async def measure_store(database: DatabaseAccess) -> None:
    """Count what is in the memory service's database; namespaces know how many records they have."""
    counted = {row["kind"]: row for row in await database.fetch(_COUNTS)}
    (size,) = await database.fetch(_SIZES[database.dialect])
    for kind in MemoryKind:
        row = counted.get(kind, {"namespaces": 0, "records": 0})
        _NAMESPACES.labels(kind.name).set(row["namespaces"])
        _RECORDS.labels(kind.name).set(row["records"])
    _BYTES.set(size["bytes"] or 0)
