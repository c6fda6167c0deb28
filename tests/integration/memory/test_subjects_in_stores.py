"""Forgetting a person where others save meanwhile, where rows are not the service's own, and where a memory fails."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import record_pb2
from coxswain.memory.v1 import vector_index_pb2 as index_pb
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.identity.principal import CredentialKind, Principal, Role
from services.memory.domain.filters import EVERYTHING, Filter
from services.memory.domain.history import Keeping
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record, Unified
from services.memory.domain.vectors import unit_vector
from services.memory.stores.sql.store import SqlMemoryStore
from services.memory.usecases.record_history import HistoryLimits, RecordHistory
from services.memory.usecases.subjects import Subjects
from tests.integration.memory.databricks_support import World, index_name, indexes_stub, make_indexes, use_workspace
from tests.integration.memory.store_model import SPACE
from tests.integration.memory.support import DIMENSION, place, stub, unified
from tests.support.harness import ALICE
from tests.support.service_tables import make_service_tables
from tests.support.text_vectors import embed_text

KEY = NamespaceKey("sales", "crew", MemoryKind.UNIFIED)
ANN, BEN = "dev|ann", "dev|ben"
ADMIN = Principal(
    "dev|root", "sales", Role.ADMIN, False, CredentialKind.DEV, "", "", datetime.now(UTC) + timedelta(hours=1)
)
ENTITIES = record_pb2.MEMORY_KIND_ENTITY


def _record(content: str, *savers: str) -> Record:
    return Record("", Unified(content), unit_vector([1, 0, 0]), subjects=savers)


async def _forget(database: Database, store: SqlMemoryStore, subject: str = ANN) -> tuple[int, int]:
    async def all_of(group_id: str) -> Sequence[SqlMemoryStore]:
        return [store]

    stores = cast("Any", SimpleNamespace(all_of=all_of))
    history = RecordHistory(stores, database, HistoryLimits(30, 30, 10, 1 << 30), max_message_bytes=1 << 20)
    found = await Subjects(stores, cast("Any", None), history).forget(ADMIN, subject, dry_run=False)
    assert not any(result.problem for result in found)
    return sum(result.removed for result in found), sum(result.kept for result in found)


class _Shared(SqlMemoryStore):
    """Somebody else saves the same the moment before it is removed."""

    async def delete(
        self,
        key: NamespaceKey,
        ids: Sequence[str] | None,
        chosen: Filter | None,
        now: datetime,
        *,
        keeping: Keeping | None = None,
    ) -> int:
        await self.save(key, SPACE, [_record("same", BEN)], now)
        return await super().delete(key, ids, chosen, now, keeping=keeping)


@pytest.mark.parametrize("store_class", [SqlMemoryStore, _Shared])
async def test_what_others_have_saved_as_well_stays(tmp_path: Path, store_class: type[SqlMemoryStore]) -> None:
    url = f"sqlite:///{tmp_path / 'memory.db'}"
    make_service_tables("memory", url)
    database = Database(url, "memory")
    try:
        store = store_class(database, cache_bytes=0, cached_namespace_bytes=0)
        # Nobody is noted with what was saved before subjects were.
        for record in (_record("former"), _record("former", ANN), _record("same", ANN), _record("of ann", ANN)):
            await store.save(KEY, SPACE, [record], utc_now())
        expected = (2, 1) if store_class is SqlMemoryStore else (1, 2)
        assert await _forget(database, store) == expected
        left = (await store.page(KEY, EVERYTHING, 10, None, utc_now(), embeddings=False)).records
        assert {record.text: record.subjects for record in left} == {
            "former": ("",),
            **({} if store_class is SqlMemoryStore else {"same": (BEN,)}),
        }
        assert await _forget(database, store) == (0, 0)
        await store.save(KEY, SPACE, [_record("former", BEN)], utc_now())
        assert (await _forget(database, store, BEN))[1] == 1
        assert "former" in {
            record.text for record in (await store.page(KEY, EVERYTHING, 9, None, utc_now(), embeddings=False)).records
        }
    finally:
        await database.close()


def _foreign(row_id: str, **values: Any) -> dict[str, Any]:
    vector = embed_text("foreign", DIMENSION)
    own = {"id": row_id, "group_id": "sales", "crew_id": "crew", "content": "foreign", "embedding": vector}
    return own | {"metadata": '{"subject":"dev|ann"}'} | values


async def test_rows_of_others_are_gone_through_and_a_memory_that_fails_stops_no_other(world: World) -> None:
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ALICE)
    admin, ann = (stub(world.harness.channel(bearer)) for bearer in ("dev:root:sales=admin", "dev:ann:sales=operator"))
    person = record_pb2.Record(entity=record_pb2.EntityRecord(entity_name="Ann"))
    await ann.SaveRecords(pb.SaveRecordsRequest(namespace=place("a", ENTITIES), records=[person]))
    await ann.SaveRecords(pb.SaveRecordsRequest(namespace=place("crew"), records=[unified("of ann")]))
    await ann.SaveRecords(pb.SaveRecordsRequest(namespace=place("z"), records=[unified("of ann, too")]))
    table = world.vectors._indexes[index_name()].table
    # Without a time, with one, unreadable, and of somebody else.
    for row in (
        *(_foreign(f"timeless-{n}") for n in range(3)),
        *(_foreign(f"timed-{n}", created_at="2026-01-02T03:04:05Z") for n in range(3)),
        *(_foreign(f"empty-{n}", content="") for n in range(3)),
        _foreign("of ben", metadata='{"subject":"dev|ben"}'),
    ):
        table.put(row)
    broken = index_name("entity")
    remove = index_pb.DeleteIndexRequest(index=broken, confirm_name=broken)
    await indexes_stub(world.harness).DeleteIndex(remove)
    for dry_run in (True, False):
        world.vectors.clear_log()
        response = await admin.ForgetSubject(pb.ForgetSubjectRequest(subject=ANN, dry_run=dry_run))
        assert [(found.namespace.memory_id, found.removed, bool(found.problem)) for found in response.namespaces] == [
            ("a", 0, True),
            ("crew", 7, False),
            ("z", 1, False),
        ]
        assert broken in response.namespaces[0].problem
        assert (response.removed, response.kept) == (8, 0)
    assert sorted(row["id"] for row in world.vectors.rows(index_name())) == ["empty-0", "empty-1", "empty-2", "of ben"]
