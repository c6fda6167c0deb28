"""Rows of documents: what failing saves leave in them, and which of them the sweep removes."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

import grpc
import pytest
from sqlalchemy import or_, select, update

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.failures import unavailable
from services.common.db.upsert import insert_ignore
from services.common.errors import Aborted
from services.memory.domain.documents import PartsWritten, SavedDocument
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind
from services.memory.repositories.documents import (
    DocumentRepository,
    DocumentRow,
    DocumentState,
    remove_expired_documents,
)
from services.memory.service import MemoryService
from services.memory.stores import documents as stepwise
from services.memory.tables import documents
from tests.integration.memory.documents import parts, save
from tests.support.harness import Harness
from tests.support.service_tables import make_service_tables

TEXT = "The keeper lights the lamp at dusk and trims the wick. " * 12


def _document(document_id: str, now: datetime, **values: Any) -> SavedDocument:
    texts = ("title", "source", "file_name", "summary", "content_hash", "fingerprint", "embedding_model")
    sizes = ("size_bytes", "character_count", "page_count", "chunk_characters", "overlap_characters")
    given: dict[str, Any] = {**dict.fromkeys(texts, ""), **dict.fromkeys(sizes, 0), **values}
    return SavedDocument(
        id=document_id,
        media_type="text/plain",
        agent_ids=(),
        metadata="{}",
        part_count=2,
        subjects=("dev|ann",),
        created_at=now,
        updated_at=now,
        **given,
    )


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    make_service_tables("memory", database_url)
    database = Database(database_url, "memory")
    yield database
    await database.close()


async def test_saves_that_never_end_are_noted_up_to_a_number(database: Database) -> None:
    now = utc_now()
    async with database.write() as connection:
        repository = DocumentRepository(connection, "sales", None)
        for number in range(1, 101):
            revision, _ = await repository.claim("manual", 3, now)
            assert revision == number
        row = await repository.get("manual", now)
        assert row is not None
        assert row.stale == [PartsWritten(revision, 3) for revision in range(69, 101)]
        # One that is dropped counts all the same when it ends; what is noted of later ones stays.
        assert await repository.switch(_document("manual", now, revision=60), gone=True)
        await repository.withdraw("manual", 99, now)
        await repository.withdraw("manual", 60, now)
        row = await repository.get("manual", now)
        assert row is not None
        assert (row.live.revision, row.last_revision) == (60, 100)
        assert row.stale == [PartsWritten(revision, 3) for revision in range(69, 101) if revision != 99]
        assert await DocumentRepository(connection, "legal", None).get("manual", now) is None


async def test_a_row_that_a_removal_takes_while_a_save_begins_is_made_anew(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_service_tables("memory", postgres_url)
    database, now = Database(postgres_url, "memory"), utc_now()
    async with database.write() as connection:
        assert (await DocumentRepository(connection, "sales", None).claim("manual", 2, now))[0] == 1
    removed = list[bool]()

    async def overtaken(*given: Any) -> bool:
        new = await insert_ignore(*given)
        if not removed:
            async with database.write() as other:
                removed.append(await DocumentRepository(other, "sales", None).remove("manual", 1, None))
        return new

    monkeypatch.setattr("services.memory.repositories.documents.insert_ignore", overtaken)
    async with database.write() as connection:
        assert (await DocumentRepository(connection, "sales", None).claim("manual", 2, now))[0] == 1
    assert removed == [True]
    await database.close()


async def test_a_row_that_was_removed_and_made_anew_is_another(database: Database) -> None:
    now = utc_now()
    async with database.write() as connection:
        repository = DocumentRepository(connection, "sales", None)
        states = []
        for saved in (now, now + timedelta(seconds=1)):
            revision, _ = await repository.claim("manual", 2, saved)
            await repository.switch(_document("manual", saved, revision=revision), gone=True)
            [state] = await repository.states("", 10)
            states.append(state)
            if len(states) == 1:
                assert await repository.remove("manual", revision, None)
        assert [(state.revision, state.last_revision) for state in states] == [(1, 1), (1, 1)]
        assert not await repository.remove_as(states[0], None)
        assert await repository.remove_as(states[1], None)


async def test_the_sweep_leaves_what_is_being_saved(database: Database) -> None:
    now = utc_now()
    async with database.write() as connection:
        repository = DocumentRepository(connection, "sales", None)
        long_ago = now - timedelta(days=2)
        for document_id in ("over", "saved anew", "given up"):
            revision, _ = await repository.claim(document_id, 2, long_ago)
            await repository.switch(_document(document_id, now, revision=revision, expires_at=long_ago), gone=True)
        # What counts is when a save began, and not since when the document has expired.
        revision, _ = await repository.claim("saved anew", 2, now)
        await repository.claim("given up", 2, now - timedelta(days=1, minutes=1))
        assert await repository.get("saved anew", now - timedelta(minutes=1)) == await repository.get("saved anew", now)
        assert sorted(row.id for row in await repository.due(now, 5)) == ["given up", "over"]
        assert await remove_expired_documents(connection, now, unfinished=True) == 2
        assert await repository.states("", 10) == [DocumentState("saved anew", 1, 2, microseconds(now))]
        again = _document("saved anew", now, revision=revision)
        assert await repository.switch(again, gone=True)
        row = await repository.get("saved anew", now)
        assert row is not None
        assert row.document == replace(again, subjects=("dev|ann",))


async def test_a_save_that_fails_keeps_no_document_that_has_expired(database: Database) -> None:
    now = utc_now()
    long_ago = now - timedelta(days=2)
    async with database.write() as connection:
        repository = DocumentRepository(connection, "sales", None)
        revision, _ = await repository.claim("over", 2, long_ago)
        await repository.switch(_document("over", now, revision=revision, expires_at=long_ago), gone=True)
        revision, _ = await repository.claim("over", 2, now)
        assert await remove_expired_documents(connection, now, unfinished=True) == 0
        await repository.withdraw("over", revision, now)
        assert await remove_expired_documents(connection, now, unfinished=True) == 1


async def test_the_sweep_leaves_what_the_release_before_is_saving(database: Database) -> None:
    now = utc_now()
    async with database.write() as connection:
        repository = DocumentRepository(connection, "sales", None)
        await repository.claim("first", 2, now)
        revision, _ = await repository.claim("anew", 2, now)
        await repository.switch(_document("anew", now, revision=revision, expires_at=now), gone=True)
        await repository.claim("anew", 2, now)
        # As that release notes it.
        await connection.execute(update(documents).values(due_us=None, expires_us=microseconds(now)))
        assert await repository.due(now + timedelta(hours=23), 5) == []
        assert await remove_expired_documents(connection, now + timedelta(hours=23), unfinished=True) == 0
        later = now + timedelta(days=1, minutes=1)
        assert sorted(row.id for row in await repository.due(later, 5)) == ["anew", "first"]
        assert await remove_expired_documents(connection, later, unfinished=True) == 2


async def test_the_sweep_of_the_release_before_leaves_what_is_being_saved(database: Database) -> None:
    now = utc_now()
    long_ago = now - timedelta(days=2)
    expires_us, day_us = documents.c.expires_us, 86_400_000_000
    # What that release takes: it knows no `due_us`.
    taken = select(documents.c.document_id).where(
        expires_us.between(1, microseconds(now)),
        or_(documents.c.last_revision == documents.c.revision, expires_us <= microseconds(now) - day_us),
    )
    # Removals that have begun, which it goes on with.
    half_removed = select(documents.c.document_id).where(expires_us < 0, -expires_us <= microseconds(now) - day_us)
    async with database.write() as connection:
        repository = DocumentRepository(connection, "sales", None)
        for document_id in ("over", "half removed", "there"):
            expires_at = None if document_id == "there" else long_ago
            revision, _ = await repository.claim(document_id, 2, long_ago)
            document = _document(document_id, now, revision=revision, expires_at=expires_at)
            await repository.switch(document, gone=True)
        negative = update(documents).where(documents.c.document_id == "half removed")
        await connection.execute(negative.values(expires_us=-microseconds(long_ago)))
        assert list(await connection.scalars(taken)) == ["over"]
        assert list(await connection.scalars(half_removed)) == ["half removed"]
        for document_id in ("over", "half removed", "there"):
            await repository.claim(document_id, 2, now)
        assert list(await connection.scalars(taken)) == list(await connection.scalars(half_removed)) == []
        [there] = await repository.page("", 10, now)
        assert there.id == "there"


async def test_no_repair_begins_of_what_is_being_saved_again(database: Database) -> None:
    now = utc_now()
    later = now + timedelta(hours=1)
    brought = _document("d", now, revision=7)
    async with database.write() as connection:
        repository = DocumentRepository(connection, "sales", None)
        assert await repository.expect(brought, now)
        (row,) = await repository.due(later, 5)
        # The same parts come again, after the row was read.
        assert await repository.expect(brought, later)
        assert await repository.begin_repair(row, later) is None
        # One that has begun waits its turn again, whatever becomes of it.
        much_later = later + timedelta(hours=1)
        (row,) = await repository.due(much_later, 5)
        begun = await repository.begin_repair(row, much_later)
        assert begun is not None
        assert await repository.begin_repair(row, much_later) is None
        assert await repository.due(much_later, 5) == []
        # Expected anew by a process whose clock is late: whoever repairs it sees that.
        assert await repository.expect(brought, much_later - timedelta(minutes=5))
        current = await repository.get("d", much_later, lock=True)
        assert current is not None
        assert current.due_us != begun.due_us
        # Parts of what is being removed would go with the others.
        await repository.begin_removal(current, much_later)
        assert not await repository.expect(brought, much_later)
        assert await repository.bring(brought, much_later, at_once=False) is None


async def test_a_row_with_parts_of_a_revision_that_does_not_expire_is_left_to_a_repair(database: Database) -> None:
    now = utc_now()
    async with database.write() as connection:
        repository = DocumentRepository(connection, "sales", None)
        for expires_at in (None, now):
            revision, _ = await repository.claim("d", 2, now)
            await repository.switch(_document("d", now, revision=revision, expires_at=expires_at), gone=False)
        later = now + timedelta(days=2)
        assert await remove_expired_documents(connection, later, unfinished=False) == 0
        (row,) = await repository.due(later, 5)
        assert [parts.revision for parts in row.stale] == [1]
        await repository.settle("d", 2, 2, now)
        assert await remove_expired_documents(connection, later, unfinished=False) == 1


async def test_removals_that_the_release_before_has_begun_are_left_to_it_for_a_day(database: Database) -> None:
    now = utc_now()
    async with database.write() as connection:
        repository = DocumentRepository(connection, "sales", None)
        revision, _ = await repository.claim("d", 2, now)
        await repository.switch(_document("d", now, revision=revision), gone=True)
        row = await repository.get("d", now, lock=True)
        assert row is not None
        await repository.begin_removal(row, now)
        await connection.execute(update(documents).values(due_us=None, expires_us=-microseconds(now)))
        assert await repository.due(now + timedelta(hours=23), 5) == []
        later = now + timedelta(days=1, minutes=1)
        assert await remove_expired_documents(connection, later, unfinished=True) == 0
        assert [row.id for row in await repository.due(later, 5)] == ["d"]


async def test_the_sweep_waits_for_no_row_that_others_hold(postgres_url: str) -> None:
    make_service_tables("memory", postgres_url)
    database, now = Database(postgres_url, "memory"), utc_now()
    for name in ("held", "over"):
        async with database.write() as connection:
            repository = DocumentRepository(connection, "sales", None)
            revision, _ = await repository.claim(name, 2, now)
            await repository.switch(_document(name, now, revision=revision, expires_at=now), gone=True)
    later = now + timedelta(seconds=1)
    async with database.write() as holding, asyncio.timeout(60):
        assert await DocumentRepository(holding, "sales", None).get("held", now, lock=True)
        async with database.write() as connection:
            assert await remove_expired_documents(connection, later, unfinished=True) == 1
    async with database.write() as connection:
        assert await remove_expired_documents(connection, later, unfinished=True) == 1
    await database.close()


async def test_a_first_save_that_never_ends_leaves_its_row_for_a_day(database: Database) -> None:
    now = utc_now()
    async with database.write() as connection:
        repository = DocumentRepository(connection, "sales", None)
        await repository.claim("dead", 2, now)
        # One that is tried again and again counts from its last save on.
        await repository.claim("again", 2, now)
        assert await remove_expired_documents(connection, now, unfinished=True) == 0
        almost = now + timedelta(hours=23)
        revision, _ = await repository.claim("again", 2, almost)
        assert await repository.due(almost, 5) == []
        later = now + timedelta(days=1, minutes=1)
        assert sorted(row.id for row in await repository.due(later, 5)) == ["dead"]
        assert await remove_expired_documents(connection, later, unfinished=False) == 0
        assert await remove_expired_documents(connection, later, unfinished=True) == 1
        # A save that ends after all makes it a document like any other.
        assert await repository.switch(_document("again", later, revision=revision), gone=True)
        assert await remove_expired_documents(connection, later + timedelta(days=9), unfinished=True) == 0


async def test_a_removal_that_has_begun_names_nobody_and_stays_until_it_ends(database: Database) -> None:
    now = utc_now()
    async with database.write() as connection:
        repository = DocumentRepository(connection, "sales", None)
        revision, _ = await repository.claim("manual", 2, now)
        await repository.switch(_document("manual", now, revision=revision), gone=True)
        row = await repository.get("manual", now, lock=True)
        assert row is not None
        last = await repository.begin_removal(row, now)
        stored = (await connection.execute(select(documents))).one()
        assert "ann" not in str(stored)
        later = now + timedelta(days=400)
        assert await remove_expired_documents(connection, later, unfinished=True) == 0
        row = await repository.get("manual", later)
        assert row is not None
        assert (row.document, row.stale) == (None, [PartsWritten(1, 2)])
        assert await repository.page("", 10, now) == []
        # Whoever began it may be at it still; later the rest is anybody's, but for a save that has begun since.
        soon = now + timedelta(minutes=11)
        assert await repository.due(now, 5) == []
        assert await repository.due(soon, 5) == [row]
        assert (await repository.claim("manual", 2, soon))[0] == last + 1
        assert await repository.due(soon + timedelta(minutes=11), 5) == []
        assert [left.id for left in await repository.due(later, 5)] == ["manual"]
        assert await remove_expired_documents(connection, later, unfinished=True) == 0
        assert await repository.remove("manual", last + 1, None)


async def _row(harness: Harness) -> DocumentRow:
    database = cast("MemoryService", harness.services["memory"])._database
    now = utc_now()
    async with database.read() as connection:
        backend_id = await connection.scalar(select(documents.c.backend_id))
        row = await DocumentRepository(connection, "sales", backend_id).get("manual", now)
    assert row is not None
    return row


async def test_an_expired_document_that_is_there_again_stays(everywhere: Harness) -> None:
    channel = everywhere.channel()
    await save(channel, TEXT, id="manual", chunk_characters=200)
    before = await _row(everywhere)
    await save(channel, f"New. {TEXT}", id="manual", chunk_characters=200)
    there, text = await _row(everywhere), await parts(channel, "manual")
    saving = cast("MemoryService", everywhere.services["memory"])._documents
    store = await saving._stores.of("sales", MemoryKind.DOCUMENT)
    key = NamespaceKey("sales", "", MemoryKind.DOCUMENT)
    # As it was read while the second save was under way, and before an import brought the same revision back.
    for read in (replace(there, document=None, live=before.live), replace(there, document=None)):
        with pytest.raises(Aborted):
            await saving._parts.remove(store, key, read, utc_now())
        assert await _row(everywhere) == there
        assert await parts(channel, "manual") == text


async def test_a_save_that_fails_leaves_no_trace_where_it_is_undone(
    everywhere: Harness, store: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = everywhere.channel()
    await save(channel, TEXT, id="manual", chunk_characters=200)
    before = await parts(channel, "manual")
    in_steps = store[0] in ("chroma", "databricks")

    async def fail(*given: Any, **named: Any) -> Any:
        raise unavailable()

    async def save_and_fail(text: str) -> DocumentRow:
        with pytest.raises(grpc.aio.AioRpcError):
            await save(channel, f"{text} {TEXT}", id="manual", chunk_characters=200)
        return await _row(everywhere)

    with monkeypatch.context() as patched:
        patched.setattr(DocumentRepository, "switch", fail)
        for revision in (2, 3):
            row = await save_and_fail(f"{revision}")
            assert (row.live.revision, row.last_revision, row.stale) == (1, revision, [])
        assert await parts(channel, "manual") == before
        # What cannot be undone is noted for the next save.
        patched.setattr("services.memory.usecases.documents.remove_parts", fail)
        row = await save_and_fail("left")
        assert [one.revision for one in row.stale] == ([4] if in_steps else [])
    if not in_steps:
        return
    # What fails after the switch counts, and keeps its parts.
    monkeypatch.setattr(stepwise, "remove_others", fail)
    row = await save_and_fail("new")
    assert row.live.revision == 5
    found = [part.document.document_revision for part in await parts(channel, "manual")]
    assert found.count(5) == row.live.count > 0


async def test_a_removal_keeps_what_others_are_writing(database: Database) -> None:
    now, later = utc_now(), utc_now() + timedelta(days=1, minutes=1)
    async with database.write() as connection:
        repository = DocumentRepository(connection, "sales", None)
        revision, _ = await repository.claim("manual", 3, now)
        row = await repository.get("manual", now, lock=True)
        assert row is not None
        last = await repository.begin_removal(row, now)
        assert await repository.remove("manual", last, now)
        row = await repository.get("manual", now)
        assert row is not None
        assert (row.document, row.being_removed, row.written_before(last)) == (None, False, [PartsWritten(1, 3)])
        # The save that was removed counts no more, not even where parts of an earlier one have been imported since.
        assert not await repository.switch(_document("manual", now, revision=revision), gone=False)
        brought = _document("manual", now, revision=revision)
        assert await repository.expect(brought, now)
        assert await repository.bring(brought, now, at_once=False)
        assert not await repository.switch(brought, gone=False)
        # Later nobody writes any more.
        row = await repository.get("manual", later, lock=True)
        assert row is not None
        last = await repository.begin_removal(row, later)
        assert await repository.remove("manual", last, later)
        assert await repository.get("manual", later) is None


async def test_what_says_that_a_document_was_removed_hides_no_parts_and_stays(database: Database) -> None:
    now = utc_now()
    imported = _document("manual", now, revision=3)
    async with database.write() as connection:
        repository = DocumentRepository(connection, "sales", None)
        overtaken, _ = await repository.claim("manual", 3, now)
        assert await repository.expect(imported, now)
        assert await repository.remove("manual", 3, now)
        # Parts of the revision at which it was removed are imported again.
        assert await repository.expect(imported, now)
        assert not await repository.switch(_document("manual", now, revision=overtaken), gone=False)
        assert await repository.bring(imported, now, at_once=False)
        row = await repository.get("manual", now)
        assert row is not None
        assert [parts.revision for parts in row.written_before(4)] == [3, overtaken]
        assert not await repository.switch(_document("manual", now, revision=overtaken), gone=False)


async def test_parts_that_several_write_stay_noted_until_the_last_has_ended_or_is_dead(database: Database) -> None:
    now = utc_now()
    brought = _document("imported", now, revision=1)
    async with database.write() as connection:
        repository = DocumentRepository(connection, "sales", None)
        for began in (now, now + timedelta(seconds=1)):
            assert await repository.expect(brought, began)
            assert await repository.bring(brought, began, at_once=False)
        for began in (now + timedelta(seconds=1), now):
            await repository.withdraw("imported", 1, began)
            row = await repository.get("imported", now)
            assert row is not None
            assert row.stale == [PartsWritten(1, 2)]
        assert [due.id for due in await repository.due(now + timedelta(minutes=11), 5)] == ["imported"]
        # Who is alone withdraws all.
        alone = replace(brought, id="alone")
        assert await repository.expect(alone, now)
        assert await repository.bring(alone, now, at_once=False)
        await repository.withdraw("alone", 1, now)
        row = await repository.get("alone", now)
        assert row is not None
        assert (row.stale, row.due_us) == ([], None)


async def test_an_import_shortens_no_note_of_a_first_save(database: Database) -> None:
    now = utc_now()
    async with database.write() as connection:
        repository = DocumentRepository(connection, "sales", None)
        revision, _ = await repository.claim("manual", 9, now)
        assert await repository.expect(_document("manual", now, revision=revision), now)
        row = await repository.get("manual", now)
        assert row is not None
        [noted] = row.stale
        assert noted == PartsWritten(revision, 9)
        assert noted.until_us > microseconds(now + timedelta(hours=23))
        # The import may still write when the save has ended.
        assert await repository.switch(_document("manual", now, revision=revision), gone=False)
        await repository.settle("manual", revision, revision, now)
        row = await repository.get("manual", now)
        assert row is not None
        assert (row.stale, row.due_us) == ([noted], noted.until_us)


async def test_notes_of_a_later_release_are_read(database: Database) -> None:
    now = utc_now()
    async with database.write() as connection:
        repository = DocumentRepository(connection, "sales", None)
        await repository.claim("manual", 2, now)
        await connection.execute(update(documents).values(stale=[[1, 2, 3, 4], [1, 2]]))
        row = await repository.get("manual", now)
        assert row is not None
        assert [(parts.revision, parts.count, parts.until_us) for parts in row.stale] == [(1, 2, 3), (1, 2, 0)]
