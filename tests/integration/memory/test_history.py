"""Former versions of records: what changes keep, who sees them, and when they go."""

import asyncio
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import record_pb2
from coxswain.memory.v1 import record_version_pb2 as version_pb
from services.common.db.database import Database
from services.common.errors import PermissionDenied
from services.common.grpc.json_values import to_struct
from services.memory.domain.filters import EVERYTHING
from services.memory.domain.history import Keeping, VersionEnd
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.owners import owner_of
from services.memory.domain.records import Record, Unified
from services.memory.settings import MemorySettings
from services.memory.stores.sql.store import SqlMemoryStore
from services.memory.tables import versions
from tests.integration.auth.support import refused
from tests.integration.memory.databricks_support import World, make_indexes, use_workspace
from tests.integration.memory.store_model import IDS, KEY, KEYS, NOW, RECORDS, SPACE
from tests.integration.memory.support import EmbeddingModels, place, serve_memory, stub, unified
from tests.integration.memory.test_word_search import empty_file
from tests.support.harness import ALICE, BOB, Harness

CODE = grpc.StatusCode
Served = tuple[Harness, EmbeddingModels]
DELETED, REPLACED = version_pb.VERSION_END_DELETED, version_pb.VERSION_END_REPLACED
OPERATOR, OTHER = "dev:bob:sales=operator", "dev:olaf:sales=operator"
WITH_HISTORY = pytest.mark.parametrize("store", ["sqlite", "postgresql", "pgvector"], indirect=True)
"""The stores that keep one."""


async def _save(memories: Any, *records: record_pb2.Record, where: pb.Namespace | None = None) -> Any:
    return await memories.SaveRecords(pb.SaveRecordsRequest(namespace=where or place(), records=records))


async def _delete(memories: Any, *ids: str, **fields: Any) -> pb.DeleteRecordsResponse:
    request = pb.DeleteRecordsRequest(namespace=place(), ids=ids, **fields)
    response: pb.DeleteRecordsResponse = await memories.DeleteRecords(request)
    return response


async def _listed(memories: Any, record_id: str = "r", **fields: Any) -> version_pb.ListRecordVersionsResponse:
    request = version_pb.ListRecordVersionsRequest(**{"namespace": place(), "id": record_id, **fields})
    response: version_pb.ListRecordVersionsResponse = await memories.ListRecordVersions(request)
    return response


async def _texts(memories: Any, record_id: str = "r", **fields: Any) -> list[str]:
    return [v.record.unified.content for v in (await _listed(memories, record_id, **fields)).versions]


async def _at(memories: Any, moment: Timestamp, record_id: str = "r", **fields: Any) -> str:
    request = pb.GetRecordRequest(namespace=place(), id=record_id, at_time=moment, **fields)
    return str((await memories.GetRecord(request)).record.unified.content)


@WITH_HISTORY
async def test_a_record_can_be_read_as_it_was(everywhere: Harness) -> None:
    memories, others = stub(everywhere.channel()), stub(everywhere.channel(BOB))
    for content, attempt in (("one", 1), ("two", 1), ("two", 1), ("two", 2)):
        await _save(memories, unified(content, "r", metadata=to_struct({"attempt": attempt})))
        await memories.TouchRecords(pb.TouchRecordsRequest(namespace=place(), ids=["r"]))
    # The same id of another group, memory and kind is another record.
    await _save(others, unified("theirs", "r"))
    await _save(others, unified("theirs now", "r"))
    await _save(memories, unified("elsewhere", "r"), where=place("crew-2"))
    assert (await _delete(memories, "r")).history_days == 30
    listed = await _listed(memories)
    assert listed.history_days == 30
    assert [(v.record.unified.content, v.record.metadata["attempt"], v.end) for v in listed.versions] == [
        ("two", 2, DELETED),
        ("two", 1, REPLACED),
        ("one", 1, REPLACED),
    ]
    assert [version.record.revision for version in listed.versions] == [4, 3, 1]
    assert {version.changed_by for version in listed.versions} == {"dev|alice"}
    assert {tuple(version.saved_by) for version in listed.versions} == {("dev|alice",)}
    newest, middle, oldest = listed.versions
    assert newest.begin_time == middle.end_time
    assert middle.begin_time == oldest.end_time
    assert await _texts(others) == ["theirs"]
    assert await _texts(memories, namespace=place("crew-2")) == []
    assert await _at(memories, middle.begin_time) == "two"
    assert await _at(memories, oldest.begin_time) == "one"
    for moment in (newest.end_time, Timestamp(seconds=oldest.begin_time.seconds - 10)):
        with refused(CODE.NOT_FOUND, "NOT_FOUND"):
            await _at(memories, moment)
    # It comes again: a new record, and what was before stays what was before.
    await _save(memories, unified("three", "r"))
    later = Timestamp()
    later.GetCurrentTime()
    assert await _at(memories, later) == "three"
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await _at(memories, later, include_embedding=True)
    assert refusal.fields == ["include_embedding"]
    first = await _listed(memories, page_size=2)
    rest = await _listed(memories, page_size=2, page_token=first.next_page_token)
    assert [*first.versions, *rest.versions] == list(listed.versions)
    assert not rest.next_page_token
    for fields in ({"record_id": "other"}, {"namespace": place("crew-2")}):
        with refused(CODE.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"):
            await _listed(memories, page_token=first.next_page_token, **fields)
    await memories.ClearNamespace(pb.ClearNamespaceRequest(namespace=place()))
    assert await _texts(memories) == []
    assert await _texts(others) == ["theirs"]


async def test_other_kinds_have_a_history_and_documents_none(served: Served) -> None:
    memories = stub(served[0].channel())
    kinds = {
        "short_term": record_pb2.Record(id="r", short_term=record_pb2.ShortTermRecord(content="said")),
        "long_term": record_pb2.Record(id="r", long_term=record_pb2.LongTermRecord(content="learnt", quality=0.5)),
        "entity": record_pb2.Record(
            id="r",
            entity=record_pb2.EntityRecord(
                entity_name="Ann", relationships=[record_pb2.Relationship(relation="knows", target="Bo")]
            ),
        ),
        "document": record_pb2.Record(id="r", document=record_pb2.DocumentRecord(content="page")),
    }
    for name, record in kinds.items():
        kind = record_pb2.MemoryKind.Value(f"MEMORY_KIND_{name.upper()}")
        where = place("" if name == "document" else "crew", kind)
        await _save(memories, record, where=where)
        changed = record_pb2.Record()
        changed.CopyFrom(record)
        field = "description" if name == "entity" else "content"
        setattr(getattr(changed, name), field, "something else")
        await _save(memories, changed, where=where)
        deleted = await memories.DeleteRecords(pb.DeleteRecordsRequest(namespace=where, ids=["r"]))
        if name == "document":
            assert deleted.history_days == 0
            with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
                await _listed(memories, namespace=where)
            continue
        newest, oldest = (await _listed(memories, namespace=where)).versions
        assert getattr(getattr(newest.record, name), field) == "something else"
        for text in ("content", "entity_name", "relationships", "quality", "description"):
            if hasattr(getattr(record, name), text):
                assert getattr(getattr(oldest.record, name), text) == getattr(getattr(record, name), text)


@WITH_HISTORY
async def test_private_versions_stay_their_owners(everywhere: Harness) -> None:
    bob, olaf, editor = (stub(everywhere.channel(b)) for b in (OPERATOR, OTHER, "dev:ed:sales=editor"))
    await _save(bob, unified("public", "r"))
    for content in ("secret", "more secret"):
        await _save(bob, unified(content, "r", private=True, source="bob"))
    # As long as it is private nobody else finds out that there ever was one.
    assert await _texts(bob) == ["secret", "public"]
    assert await _texts(olaf) == []
    assert await _texts(editor) == []
    assert await _texts(editor, include_private=True) == ["secret", "public"]
    with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await _texts(olaf, include_private=True)
    first = (await _listed(bob)).versions[-1].begin_time
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await _at(olaf, first)
    await _save(bob, unified("open", "r"))
    assert await _texts(bob) == ["more secret", "secret", "public"]
    assert await _texts(olaf) == ["public"]
    await _delete(olaf, "r", purge_history=True)
    # What olaf does not see, he does not purge.
    assert await _texts(bob) == ["more secret", "secret"]
    assert await _texts(olaf) == []


@WITH_HISTORY
async def test_a_forgotten_person_does_not_live_on_in_versions(everywhere: Harness) -> None:
    admin, bob, olaf = (stub(everywhere.channel(b)) for b in (ALICE, OPERATOR, OTHER))
    await _save(bob, unified("by bob", "r"))
    await _save(olaf, unified("by olaf", "r"))
    await _save(olaf, unified("names bob", "named", metadata=to_struct({"subject": "dev|bob"})))
    await _save(olaf, unified("names nobody", "named"))
    await _save(olaf, unified("by both"))
    await _save(bob, unified("by both"))
    [both] = [
        r.id for r in (await bob.ListRecords(pb.ListRecordsRequest(namespace=place()))).records if "both" in str(r)
    ]
    await _save(olaf, unified("by olaf alone", both))
    await _save(bob, unified("changed by bob", "o"))
    await _save(olaf, unified("olaf again", "o"))
    await _save(olaf, unified("olaf at last", "o"))
    await _save(olaf, unified("olaf's", "p"))
    await _delete(bob, "p")
    await _save(bob, unified("said by both"))
    [shared] = (await _save(olaf, unified("said by both"))).ids
    before = Timestamp()
    before.GetCurrentTime()
    counted = await admin.ForgetSubject(pb.ForgetSubjectRequest(subject="dev|bob", dry_run=True))
    assert [found.removed_versions for found in counted.namespaces] == [4]
    assert await _texts(olaf) == ["by bob"]
    forgotten = await admin.ForgetSubject(pb.ForgetSubjectRequest(subject="dev|bob"))
    assert [found.removed_versions for found in forgotten.namespaces] == [4]
    for record_id, expected in (("r", []), ("named", []), (both, []), ("o", ["olaf again"]), ("p", ["olaf's"])):
        listed = await _listed(admin, record_id, include_private=True)
        assert [version.record.unified.content for version in listed.versions] == expected
        assert "bob" not in str(listed)
    # What stays has said so all the time.
    assert [found.kept for found in forgotten.namespaces] == [1]
    assert await _at(admin, before, shared) == "said by both"
    assert not (await admin.ForgetSubject(pb.ForgetSubjectRequest(subject="dev|bob"))).namespaces


async def test_a_group_says_how_long_versions_are_kept(tmp_path: Path, database_url: str) -> None:
    limits = MemorySettings(history_days=7, history_most_days=10, history_versions=2)
    async with serve_memory(tmp_path, database_url, settings=limits) as (harness, _):
        memories, others = stub(harness.channel()), stub(harness.channel(BOB))

        async def choose(**policy: Any) -> version_pb.HistoryPolicy:
            request = version_pb.SetHistoryPolicyRequest(**policy)
            chosen: version_pb.HistoryPolicy = (await memories.SetHistoryPolicy(request)).policy
            return chosen

        default = (await memories.GetHistoryPolicy(version_pb.GetHistoryPolicyRequest())).policy
        assert default == version_pb.HistoryPolicy(
            days=7, is_default=True, most_days=10, versions_per_record=2, bytes_per_group=2**30
        )
        for caller in (memories, others):
            for content in ("1", "2", "3", "4"):
                await _save(caller, unified(content, "r"))
            assert await _texts(caller) == ["3", "2"]
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await choose(days=11)
        assert refusal.fields == ["days"]
        assert "10" in refusal.message
        for wrong in ({}, {"days": -1}):
            with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
                await choose(**wrong)
        with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
            await stub(harness.channel("dev:ed:sales=editor")).SetHistoryPolicy(
                version_pb.SetHistoryPolicyRequest(days=1)
            )
        assert (await choose(days=0)).days == 0
        assert (await _listed(memories)) == version_pb.ListRecordVersionsResponse()
        await _save(memories, unified("5", "r"))
        assert (await _delete(memories, "r")).history_days == 0
        service: Any = harness.services["memory"]
        assert await service._history.prune() == 2
        assert await _texts(others) == ["3", "2"]
        assert (await choose(use_default=version_pb.UseDefaultHistory())) == default
        assert await _texts(memories) == []
        async with service._database.write() as connection:
            for table in versions.values():
                await connection.execute(update(table).values(ended_us=table.c.ended_us - 8 * 24 * 3_600_000_000))
        assert await _texts(others) == []
        assert await service._history.prune() == 2


async def test_purging_leaves_nothing(memory: Harness) -> None:
    memories = stub(memory.channel())
    for record_id in ("a", "b", "c"):
        await _save(memories, unified("x", record_id, scope="/s"), unified("y", record_id, scope="/s"))
        await _save(memories, unified("z", record_id, scope="/s"))
    await _delete(memories, "a")
    assert await _texts(memories, "a") == ["z", "y"]
    purged = await _delete(memories, "a", "b", purge_history=True)
    assert (purged.deleted, purged.history_days) == (1, 0)
    assert await _texts(memories, "a") == await _texts(memories, "b") == []
    assert await _texts(memories, "c") == ["y"]
    by_filter = pb.RecordFilter(scope_prefix="/s", categories=["none"])
    await _delete(memories, "c", filter=by_filter, purge_history=True)
    assert await _texts(memories, "c") == ["y"]
    await memories.DeleteRecords(
        pb.DeleteRecordsRequest(namespace=place(), filter=pb.RecordFilter(scope_prefix="/s"), purge_history=True)
    )
    assert await _texts(memories, "c") == []


async def test_a_workspace_keeps_no_history_and_says_so(world: World) -> None:
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ALICE)
    memories = stub(world.harness.channel())
    await _save(memories, unified("text", "r"))
    assert (await _delete(memories, "r")).history_days == 0
    moment = Timestamp(seconds=1_700_000_000)
    for call in (_listed(memories), _at(memories, moment)):
        with refused(CODE.FAILED_PRECONDITION, "INVALID_FIELD") as refusal:
            await call
        assert refusal.fields == ["namespace"]


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("save"), KEY, st.lists(RECORDS, min_size=1, max_size=3)),
        st.tuples(st.just("delete"), KEY, st.lists(IDS, min_size=1, max_size=2)),
        st.tuples(st.just("touch"), KEY, st.lists(IDS, max_size=2)),
    ),
    max_size=10,
)
State = tuple[object, ...] | None


def _state(record: Record | None) -> State:
    if record is None:
        return None
    body = record.body
    assert isinstance(body, Unified)
    return (body.content, body.scope, body.categories, body.importance, body.source, owner_of(record), record.metadata)


async def _replay(store: SqlMemoryStore, changes: Sequence[tuple[Any, ...]]) -> None:
    """Make changes a second after the other, and compare every moment with what was stored then."""
    keeping = Keeping("dev|ann", 1000)
    states: list[dict[tuple[NamespaceKey, str], State]] = []
    ids = ["r1", "r2", "r3", "r4", "r5"]
    expected = {(key, record_id): list[tuple[State, VersionEnd]]() for key in KEYS for record_id in ids}
    now = NOW
    for what, key, what_of in changes:
        now += timedelta(seconds=1)
        before = dict(states[-1]) if states else dict.fromkeys(expected)
        if what == "save":
            try:
                await store.save(key, SPACE, what_of, now, keeping=keeping)
            except PermissionDenied:
                states.append(before)
                continue
        elif what == "delete":
            await store.delete(key, what_of, EVERYTHING, now, keeping=keeping)
        else:
            await store.touch(key, what_of, now)
        after = dict(before)
        for record_id in ids:
            found = await store.get(key, [record_id], now, embeddings=False)
            after[key, record_id] = _state(found[0] if found else None)
            was, became = before[key, record_id], after[key, record_id]
            if was is not None and was != became:
                end = VersionEnd.REPLACED if became is not None else VersionEnd.DELETED
                expected[key, record_id].insert(0, (was, end))
        states.append(after)
    for (key, record_id), versions_there in expected.items():
        found_versions, more = await store.history.versions(key, record_id, EVERYTHING, NOW, None, 100)
        assert not more
        assert [(_state(version.record), version.end) for version in found_versions] == versions_there
        for second, state in enumerate(states, start=1):
            moment = NOW + timedelta(seconds=second, milliseconds=500)
            record = await store.history.at(key, record_id, EVERYTHING, NOW, moment, now)
            assert _state(record) == state[key, record_id]


async def _replay_in_file(path: Path, changes: Sequence[tuple[Any, ...]]) -> None:
    database = Database(f"sqlite:///{path}", "memory")
    try:
        await _replay(SqlMemoryStore(database, cache_bytes=1 << 20, cached_namespace_bytes=1 << 20), changes)
    finally:
        await database.close()


@given(CHANGES)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_versions_replay_to_what_was_stored(changes: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "memory.db"
        path.write_bytes(empty_file())
        asyncio.run(_replay_in_file(path, changes))
