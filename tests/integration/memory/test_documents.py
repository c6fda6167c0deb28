"""Documents in every store: saved, found and replaced as a whole, by their group alone."""

import asyncio
import contextlib
import sys
from datetime import timedelta
from typing import Any, cast

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import select, update

from coxswain.memory.v1 import document_pb2 as pb
from coxswain.memory.v1 import memory_pb2, record_pb2
from services.common.clock import utc_now
from services.common.errors import Unavailable
from services.common.grpc.json_values import to_struct
from services.memory.repositories.documents import DocumentRepository
from services.memory.service import MemoryService
from services.memory.stores import documents as stepwise
from services.memory.stores.chroma.store import ChromaMemoryStore
from services.memory.stores.databricks.store import DatabricksMemoryStore
from services.memory.stores.pgvector.store import PgvectorMemoryStore
from services.memory.stores.sql.store import SqlMemoryStore
from services.memory.tables import documents
from services.memory.usecases.document_parts import DocumentParts
from services.memory.usecases.document_repairs import DocumentRepairs
from tests.integration.auth.support import refused
from tests.integration.memory.documents import DOCUMENTS, documents_stub, of, parts, responses, save, search, upload
from tests.integration.memory.support import EmbeddingModels, place, stub
from tests.support.harness import BOB, Harness
from tests.support.pdf_files import pdf_of
from tests.support.waiting import until

CODE = grpc.StatusCode
MANUAL = (
    "# Manual\n\nAbout the harbour.\n\n## Lamps\n\n"
    + "The keeper lights the lamp at dusk and trims the wick. " * 6
    + "\n\n## Boats\n\n"
    + "Boats are tied to the northern pier with two ropes each. " * 6
)
STORES: dict[str, Any] = {"databricks": DatabricksMemoryStore, "chroma": ChromaMemoryStore}
STORES_BY_NAME: dict[str, Any] = {"pgvector": PgvectorMemoryStore, **STORES}


async def test_a_document_is_saved_found_and_removed_by_its_group_alone(everywhere: Harness) -> None:
    sales, legal = everywhere.channel(), everywhere.channel(BOB)
    told = await responses(
        sales,
        MANUAL,
        id="manual",
        file_name="manual.md",
        chunk_characters=200,
        metadata=to_struct({"site": "north"}),
        agent_ids=["keeper"],
        expected_bytes=len(MANUAL.encode()),
    )
    stages = [pb.DocumentStage.Name(response.stage).removeprefix("DOCUMENT_STAGE_") for response in told]
    assert stages[-3:] == ["SPLIT", "EMBEDDING", "STORED"]
    document = told[-1].document
    assert (document.id, document.title, document.media_type) == ("manual", "Manual", "text/markdown")
    assert (document.revision, document.size_bytes, document.source) == (1, len(MANUAL.encode()), "manual.md")
    found = await parts(sales, "manual")
    assert len(found) == document.part_count == told[-1].embedded_parts > 3
    for index, record in enumerate(found):
        part = record.document
        assert (part.chunk_index, part.part_count, part.document_revision) == (index, len(found), 1)
        assert MANUAL[part.start_character :].startswith(part.content)
        assert (list(part.agent_ids), record.metadata["site"]) == (["keeper"], "north")
    await save(sales, "Invoices are due within thirty days.", id="terms", file_name="terms.txt")
    [nearest] = await search(sales, "boats tied to the northern pier with ropes", limit=1)
    assert (nearest.document.parent_document_id, nearest.document.section) == ("manual", "Manual > Boats")
    assert {one.document.parent_document_id for one in await search(sales, "boats", "terms")} == {"terms"}
    # Another group has its own documents, even under the same id.
    assert await search(legal, "boats") == await parts(legal, "manual") == []
    for call in (documents_stub(legal).GetDocument, documents_stub(legal).DeleteDocument):
        with refused(CODE.NOT_FOUND, "NOT_FOUND"):
            await call((pb.GetDocumentRequest if "Get" in str(call._method) else pb.DeleteDocumentRequest)(id="manual"))
    assert not (await documents_stub(legal).ListDocuments(pb.ListDocumentsRequest())).documents
    await save(legal, "Of another house.", id="manual")
    listed = await documents_stub(sales).ListDocuments(pb.ListDocumentsRequest(page_size=1))
    rest = await documents_stub(sales).ListDocuments(pb.ListDocumentsRequest(page_token=listed.next_page_token))
    assert [one.id for one in (*listed.documents, *rest.documents)] == ["manual", "terms"]
    assert (await documents_stub(sales).GetDocument(pb.GetDocumentRequest(id="manual"))).document == document
    deleted = await documents_stub(sales).DeleteDocument(pb.DeleteDocumentRequest(id="manual"))
    assert deleted.deleted_parts == len(found)
    assert await parts(sales, "manual") == []
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await documents_stub(sales).DeleteDocument(pb.DeleteDocumentRequest(id="manual"))
    assert [part.document.content for part in await parts(legal, "manual")] == ["Of another house."]


async def test_a_document_is_replaced_as_a_whole_and_the_same_costs_nothing(everywhere: Harness) -> None:
    channel = everywhere.channel()
    first = await save(channel, MANUAL, id="manual", file_name="manual.md", chunk_characters=200)
    again = await save(channel, MANUAL, id="manual", file_name="manual.md", chunk_characters=200)
    assert again.unchanged
    assert again.document == first.document
    shorter = await save(channel, MANUAL[:400], id="manual", file_name="manual.md", chunk_characters=200)
    assert not shorter.unchanged
    assert shorter.document.create_time == first.document.create_time
    assert shorter.document.revision == 2
    left = await parts(channel, "manual")
    assert len(left) == shorter.document.part_count < first.document.part_count
    assert {part.document.document_revision for part in left} == {2}
    assert "ropes" not in "".join(part.document.content for part in left)
    # Other options make other parts of the same file.
    other = await save(channel, MANUAL[:400], id="manual", file_name="manual.md", chunk_characters=150)
    assert (other.unchanged, other.document.revision) == (False, 3)
    # A document whose parts were removed is not taken for unchanged.
    await stub(channel).DeleteRecords(
        memory_pb2.DeleteRecordsRequest(namespace=place("", DOCUMENTS), filter=of("manual"))
    )
    await everywhere_settles(everywhere)
    back = await save(channel, MANUAL[:400], id="manual", file_name="manual.md", chunk_characters=150)
    assert len(await parts(channel, "manual")) == back.document.part_count


async def everywhere_settles(harness: Harness) -> None:
    """Let what an index may show late count as seen."""
    database = cast("MemoryService", harness.services["memory"])._database
    async with database.write() as connection:
        for row in await connection.execute(select(documents)):
            if row.document:
                changed = {**row.document, "updated_at": row.document["updated_at"] - 3_600_000_000}
                await connection.execute(update(documents).where(documents.c.id == row.id).values(document=changed))


async def test_a_save_that_dies_leaves_the_old_and_its_half_goes_with_the_next(
    everywhere: Harness, store: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = everywhere.channel()
    old = await save(channel, MANUAL, id="manual", chunk_characters=200)
    before = await parts(channel, "manual")
    with monkeypatch.context() as patched:
        if store[0] in STORES:
            patched.setattr(stepwise, "_SAVED_AT_ONCE", 2)
            _die_in_the_second_save(patched, STORES[store[0]])
        else:
            _die_in_the_switch(patched)
        with pytest.raises(grpc.aio.AioRpcError):
            await save(channel, MANUAL.replace("lamp", "lantern"), id="manual", chunk_characters=200)
    kept = (await documents_stub(channel).GetDocument(pb.GetDocumentRequest(id="manual"))).document
    assert kept == old.document
    there = await parts(channel, "manual")
    assert [part for part in there if part.document.document_revision == 1] == before
    # Where there are no transactions, the half is there until somebody saves or removes the document.
    assert (len(there) > len(before)) == (store[0] in STORES)
    new = await save(channel, MANUAL[:300], id="manual", chunk_characters=200)
    left = await parts(channel, "manual")
    assert [part.document.document_revision for part in left] == [3] * new.document.part_count
    # The same with a document whose first save dies.
    with monkeypatch.context() as patched:
        if store[0] in STORES:
            patched.setattr(stepwise, "_SAVED_AT_ONCE", 2)
            _die_in_the_second_save(patched, STORES[store[0]])
        else:
            _die_in_the_switch(patched)
        with pytest.raises(grpc.aio.AioRpcError):
            await save(channel, MANUAL, id="first", chunk_characters=200)
    for _ in range(2):
        with refused(CODE.NOT_FOUND, "NOT_FOUND"):
            await documents_stub(channel).DeleteDocument(pb.DeleteDocumentRequest(id="first"))
    assert await parts(channel, "first") == []
    assert [one.id for one in (await documents_stub(channel).ListDocuments(pb.ListDocumentsRequest())).documents] == [
        "manual"
    ]


def _die_in_the_second_save(patched: pytest.MonkeyPatch, store_class: Any) -> None:
    saved, calls = store_class.save, []

    async def save_or_die(self: Any, *given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            # No failure that is expected: nothing is tidied up, as when the process is killed.
            raise RuntimeError("killed")
        return await saved(self, *given, **named)

    patched.setattr(store_class, "save", save_or_die)


def _die_in_the_switch(patched: pytest.MonkeyPatch) -> None:
    async def die(*given: Any, **named: Any) -> Any:
        raise RuntimeError("killed")

    patched.setattr(DocumentRepository, "switch", die)


async def test_parts_that_are_exported_bring_their_document_back(everywhere: Harness) -> None:
    channel, legal = everywhere.channel(), everywhere.channel(BOB)
    await save(channel, MANUAL, id="manual", chunk_characters=200, title="Harbour")
    stream = stub(channel).ExportRecords(
        memory_pb2.ExportRecordsRequest(namespace=place("", DOCUMENTS), include_embeddings=True)
    )
    exported = [record async for response in stream for record in response.records]

    async def bring(into: Any, records: list[record_pb2.Record]) -> None:
        target = memory_pb2.ImportTarget(namespace=place("", DOCUMENTS))
        requests = [memory_pb2.ImportRecordsRequest(records=records)]
        requests[0].target.CopyFrom(target)
        assert [response async for response in stub(into).ImportRecords(iter(requests))]

    await bring(legal, exported[:1])
    await bring(legal, exported[1:])
    document = (await documents_stub(legal).GetDocument(pb.GetDocumentRequest(id="manual"))).document
    assert (document.title, document.part_count, document.content_hash) == ("Harbour", len(exported), "")
    assert len(await parts(legal, "manual")) == len(exported)
    # The same again changes nothing; parts of another revision are refused.
    await bring(channel, exported)
    saved = (await save(channel, MANUAL[:300], id="manual", chunk_characters=200)).document
    with refused(CODE.FAILED_PRECONDITION, "INVALID_FIELD") as refusal:
        await bring(channel, exported)
    assert refusal.fields == ["records[0].document.parent_document_id"]
    assert {part.document.document_revision for part in await parts(channel, "manual")} == {saved.revision}
    # What came back is saved anew, not taken for unchanged, and goes as a whole.
    assert not (await save(legal, MANUAL, id="manual", chunk_characters=200, title="Harbour")).unchanged
    await stub(legal).ClearNamespace(memory_pb2.ClearNamespaceRequest(namespace=place("", DOCUMENTS)))
    assert not (await documents_stub(legal).ListDocuments(pb.ListDocumentsRequest())).documents


async def test_forgetting_a_person_takes_whole_documents(everywhere: Harness) -> None:
    ann, ben = (everywhere.channel(f"dev:{name}:sales=operator") for name in ("ann", "ben"))
    admin = everywhere.channel("dev:root:sales=admin")
    await save(ann, MANUAL, id="of-ann", chunk_characters=200)
    shared = await save(ann, MANUAL, id="shared", chunk_characters=200)
    assert (await save(ben, MANUAL, id="shared", chunk_characters=200)).unchanged
    about = await save(ben, "A note.", id="about-ann", metadata=to_struct({"subject": "dev|ann"}))
    gone = shared.document.part_count + about.document.part_count
    for dry_run in (True, False):
        request = memory_pb2.ForgetSubjectRequest(subject="dev|ann", dry_run=dry_run)
        forgotten = await stub(admin).ForgetSubject(request)
        assert (forgotten.removed, forgotten.kept) == (gone, shared.document.part_count)
    left = (await documents_stub(ben).ListDocuments(pb.ListDocumentsRequest())).documents
    assert [one.id for one in left] == ["shared"]
    assert len(await parts(ben, "shared")) == shared.document.part_count
    assert await parts(ben, "of-ann") == await parts(ben, "about-ann") == []
    nothing = await stub(admin).ForgetSubject(memory_pb2.ForgetSubjectRequest(subject="dev|ann"))
    assert (nothing.removed, nothing.kept) == (0, 0)


def two_hours_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the clock of everything in memory that looks at it."""
    looking = [name for name, module in sys.modules.items() if vars(module).get("utc_now") is utc_now]
    for name in looking:
        if name.startswith("services.memory."):
            monkeypatch.setattr(f"{name}.utc_now", lambda: utc_now() + timedelta(hours=2))


async def test_a_document_ends_with_its_parts(everywhere: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = everywhere.channel()
    header = pb.DocumentHeader(id="short")
    header.expire_time.FromDatetime(utc_now() + timedelta(hours=1))
    requests = [pb.SaveDocumentRequest(header=header), pb.SaveDocumentRequest(chunk=b"Soon gone.")]
    saved = [response async for response in documents_stub(channel).SaveDocument(iter(requests))][-1]
    assert saved.document.expire_time == header.expire_time
    two_hours_pass(monkeypatch)
    assert await parts(channel, "short") == await search(channel, "soon") == []
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await documents_stub(channel).GetDocument(pb.GetDocumentRequest(id="short"))
    assert not (await documents_stub(channel).ListDocuments(pb.ListDocumentsRequest())).documents
    service = cast("MemoryService", everywhere.services["memory"])

    async def save_another() -> None:
        await save(channel, "Here to stay.", id="long")
        await until(lambda: not service._documents._repairs._running)

    async def fail(*given: Any, **named: Any) -> int:
        raise RuntimeError("the workspace answered something odd")

    # The sweep removes those of the default store; in a backend a save does, with the credential of its caller.
    await service._remove_expired()
    with monkeypatch.context() as patched:
        for stepped in STORES.values():
            patched.setattr(stepped, "remove_document", fail)
        await save_another()
    # What failed was a while ago; the document that is saved is not even another one.
    async with service._database.write() as connection:
        half_removed = documents.c.due_us.is_not(None)
        await connection.execute(update(documents).where(half_removed).values(due_us=0))
    await save_another()
    async with service._database.read() as connection:
        left = (await connection.execute(select(documents.c.document_id, documents.c.backend_id))).all()
    assert [row.document_id for row in left] == ["long"]
    assert [part.document.parent_document_id for part in await parts(channel, "long")] == ["long"]


async def test_concurrent_saves_leave_one_document(served: tuple[Harness, EmbeddingModels]) -> None:
    harness, _ = served
    channel = harness.channel()

    async def one(number: int) -> str:
        try:
            await save(channel, MANUAL.replace("lamp", f"lamp{number}"), id="manual", chunk_characters=200)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    outcomes = await asyncio.gather(*map(one, range(4)))
    assert "OK" in outcomes
    assert set(outcomes) <= {"OK", "ABORTED"}
    document = (await documents_stub(channel).GetDocument(pb.GetDocumentRequest(id="manual"))).document
    left = await parts(channel, "manual")
    assert len(left) == document.part_count
    assert {part.document.document_revision for part in left} == {document.revision}


async def test_everybody_who_saves_the_same_file_is_noted(served: tuple[Harness, EmbeddingModels]) -> None:
    harness, _ = served
    people = [f"p{number}" for number in range(4)]
    await save(harness.channel(), MANUAL, id="manual", chunk_characters=200)
    responses = await asyncio.gather(
        *(
            save(harness.channel(f"dev:{name}:sales=operator"), MANUAL, id="manual", chunk_characters=200)
            for name in people
        )
    )
    assert all(response.unchanged for response in responses)
    async with cast("MemoryService", harness.services["memory"])._database.read() as connection:
        [subjects] = [row.subjects for row in await connection.execute(select(documents))]
    assert {f"dev|{name}" for name in people} <= set(subjects)
    assert len(subjects) == len(people) + 1


async def test_a_removal_that_a_save_overtakes_leaves_the_new_document(
    everywhere: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = everywhere.channel()
    await save(channel, MANUAL, id="manual", chunk_characters=200)
    remove = DocumentParts.remove

    async def overtaken(*given: Any) -> int:
        await save(channel, MANUAL[:300], id="manual", chunk_characters=200)
        return await remove(*given)

    request = pb.DeleteDocumentRequest(id="manual")
    with monkeypatch.context() as patched:
        patched.setattr(DocumentParts, "remove", overtaken)
        with refused(CODE.ABORTED, "REVISION_MISMATCH"):
            await documents_stub(channel).DeleteDocument(request)
    document = (await documents_stub(channel).GetDocument(pb.GetDocumentRequest(id="manual"))).document
    left = await parts(channel, "manual")
    assert [part.document.document_revision for part in left] == [2] * document.part_count
    assert (await documents_stub(channel).DeleteDocument(request)).deleted_parts == len(left)
    assert await parts(channel, "manual") == []


@pytest.mark.parametrize("store", [*STORES, "pgvector"], indirect=True)
@pytest.mark.parametrize("ends", [True, False])
async def test_a_save_that_begins_while_parts_are_removed_ends_as_if_it_came_after(
    everywhere: Harness, monkeypatch: pytest.MonkeyPatch, *, ends: bool
) -> None:
    channel, request = everywhere.channel(), pb.DeleteDocumentRequest(id="manual")
    await save(channel, MANUAL, id="manual", chunk_characters=200)
    count = len(await parts(channel, "manual"))
    remove, begun = stepwise.remove_others, list[int]()

    async def fail(*_given: Any, **_named: Any) -> Any:
        raise Unavailable("no")

    async def overtaken(*given: Any, **named: Any) -> int:
        if not begun:
            begun.append(1)
            with monkeypatch.context() as failing, contextlib.suppress(grpc.aio.AioRpcError):
                if not ends:
                    failing.setattr(DocumentRepository, "switch", fail)
                await save(channel, MANUAL[:300], id="manual", chunk_characters=200)
        return await remove(*given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(stepwise, "remove_others", overtaken)
        removed = await documents_stub(channel).DeleteDocument(request)
    assert removed.deleted_parts == (0 if ends else count)
    left = await parts(channel, "manual")
    if ends:
        document = (await documents_stub(channel).GetDocument(pb.GetDocumentRequest(id="manual"))).document
        assert [part.document.document_revision for part in left] == [document.revision] * document.part_count
        return
    assert left == []
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await documents_stub(channel).GetDocument(pb.GetDocumentRequest(id="manual"))


@pytest.mark.parametrize("when", ["claimed", "before", "beside", "after"])
async def test_a_document_that_is_saved_while_its_namespace_is_cleared_stays_whole_or_not_at_all(
    everywhere: Harness, store: tuple[str, str], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    channel, documents_of = everywhere.channel(), documents_stub(everywhere.channel())
    for name in ("manual", "other"):
        await save(channel, MANUAL, id=name, chunk_characters=200)
    kind = (STORES | {"pgvector": PgvectorMemoryStore}).get(store[0], SqlMemoryStore)
    clear, replace_document, cleared, begun = kind.clear, kind.replace_document, asyncio.Event(), asyncio.Barrier(3)
    saves: list[asyncio.Task[Any]] = []

    async def waiting(*given: Any, **named: Any) -> Any:
        await begun.wait()
        await cleared.wait()
        return await replace_document(*given, **named)

    def start() -> None:
        for name in ("manual", "new"):
            saves.append(asyncio.ensure_future(save(channel, MANUAL[:300], id=name, chunk_characters=200)))

    async def claim() -> None:
        patched.setattr(kind, "replace_document", waiting)
        start()
        await begun.wait()

    async def overtaken(*given: Any) -> int:
        if when == "before":
            start()
            await asyncio.gather(*saves)
        elif when == "beside":
            await claim()
        removed = await clear(*given)
        if when == "after":
            start()
        if when != "beside":
            cleared.set()
            await asyncio.gather(*saves)
        return int(removed)

    with monkeypatch.context() as patched:
        if when == "claimed":
            # Before anything is cleared; they end before the documents are looked at again.
            await claim()
        patched.setattr(kind, "clear", overtaken)
        await stub(channel).ClearNamespace(memory_pb2.ClearNamespaceRequest(namespace=place("", DOCUMENTS)))
        cleared.set()
        outcomes = await asyncio.gather(*saves, return_exceptions=True)
    failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert when == "beside" or not failed
    assert all(isinstance(one, grpc.aio.AioRpcError) and one.code() == CODE.ABORTED for one in failed)
    there = (await documents_of.ListDocuments(pb.ListDocumentsRequest())).documents
    for document in there:
        left = await parts(channel, document.id)
        assert [part.document.document_revision for part in left] == [document.revision] * document.part_count
    everything = memory_pb2.CountRecordsRequest(namespace=place("", DOCUMENTS))
    assert (await stub(channel).CountRecords(everything)).count == sum(document.part_count for document in there)
    if when in ("claimed", "after") and store[0] != "databricks":
        assert [document.id for document in there] == ["manual", "new"]
    assert "other" not in {document.id for document in there}
    # And nothing keeps others from being saved.
    assert (await save(channel, MANUAL, id="manual", chunk_characters=200)).document.part_count > 1


async def test_a_save_that_ends_just_before_its_row_is_removed_leaves_no_parts_alone(
    memory: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = memory.channel()
    await save(channel, MANUAL, id="manual", chunk_characters=200)
    replace_document, remove_row = SqlMemoryStore.replace_document, DocumentParts._remove_row
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def waiting(*given: Any, **named: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await replace_document(*given, **named)

    async def overtaken(*given: Any) -> bool:
        go_on.set()
        await asyncio.wait([saving])
        return await remove_row(*given)

    monkeypatch.setattr(SqlMemoryStore, "replace_document", waiting)
    monkeypatch.setattr(DocumentParts, "_remove_row", overtaken)
    saving = asyncio.ensure_future(save(channel, MANUAL[:300], id="manual", chunk_characters=200))
    await begun.wait()
    await stub(channel).ClearNamespace(memory_pb2.ClearNamespaceRequest(namespace=place("", DOCUMENTS)))
    go_on.set()
    await asyncio.wait([saving])
    listed = (await documents_stub(channel).ListDocuments(pb.ListDocumentsRequest())).documents
    assert [one.id for one in listed] == ["manual"] * bool(await parts(channel, "manual"))


@pytest.mark.parametrize("store", STORES, indirect=True)
@pytest.mark.parametrize("is_removed", [True, False])
async def test_a_save_that_ends_after_a_removal_has_begun_leaves_nothing(
    everywhere: Harness, store: tuple[str, str], monkeypatch: pytest.MonkeyPatch, *, is_removed: bool
) -> None:
    channel, request = everywhere.channel(), pb.DeleteDocumentRequest(id="manual")
    await save(channel, MANUAL, id="manual", chunk_characters=200)
    kind = STORES[store[0]]
    save_parts, begun = kind.save, list[int]()

    async def fail(*_given: Any, **_named: Any) -> Any:
        raise Unavailable("no")

    async def and_remove(*given: Any, **named: Any) -> Any:
        saved = await save_parts(*given, **named)
        if not begun:
            begun.append(1)
            with monkeypatch.context() as failing, contextlib.suppress(grpc.aio.AioRpcError):
                if not is_removed:
                    failing.setattr(stepwise, "remove_others", fail)
                await documents_stub(channel).DeleteDocument(request)
        return saved

    with monkeypatch.context() as patched:
        patched.setattr(kind, "save", and_remove)
        with refused(CODE.ABORTED, "REVISION_MISMATCH"):
            await save(channel, MANUAL[:300], id="manual", chunk_characters=200)
    for _ in range(1 if is_removed else 2):
        with refused(CODE.NOT_FOUND, "NOT_FOUND"):
            await documents_stub(channel).DeleteDocument(request)
    assert await parts(channel, "manual") == []
    assert (await save(channel, MANUAL, id="manual", chunk_characters=200)).document.part_count


def _part(document_id: str = "manual", *, revision: int = 1, index: int = 0, count: int = 2) -> record_pb2.Record:
    return record_pb2.Record(
        id=f"{document_id}#{revision}.{index}",
        document=record_pb2.DocumentRecord(
            content="A part from elsewhere.",
            parent_document_id=document_id,
            document_revision=revision,
            chunk_index=index,
            part_count=count,
        ),
    )


async def _save_records(channel: grpc.aio.Channel, *records: record_pb2.Record) -> None:
    await stub(channel).SaveRecords(memory_pb2.SaveRecordsRequest(namespace=place("", DOCUMENTS), records=records))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("part_count", 2**31 - 1),
        ("document_revision", 2**63 - 1),
        ("chunk_index", 100_001),
        ("parent_document_id", "d" * 201),
    ],
)
async def test_figures_that_no_document_has_are_refused(memory: Harness, field: str, value: Any) -> None:
    part = _part()
    setattr(part.document, field, value)
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        await _save_records(memory.channel(), part)
    assert refusal.fields == [f"records[0].document.{field}"]


async def test_the_largest_figures_of_a_part_do_no_harm(memory: Harness) -> None:
    channel = memory.channel()
    await _save_records(channel, _part(revision=10**12, index=99_999, count=100_000))
    saved = await save(channel, MANUAL[:300], id="manual")
    assert saved.document.revision == 10**12 + 1
    assert [part.document.document_revision for part in await parts(channel, "manual")] == [10**12 + 1]


async def test_a_save_of_parts_that_fails_leaves_documents_as_they_were(
    memory: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = memory.channel()
    await save(channel, MANUAL, id="manual", chunk_characters=200)

    async def fail(*given: Any, **named: Any) -> Any:
        raise Unavailable("the database does not answer", reason="DEPENDENCY_UNAVAILABLE")

    with monkeypatch.context() as patched:
        patched.setattr(SqlMemoryStore, "save", fail)
        for part in (_part(index=1), _part("other")):
            with refused(CODE.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE"):
                await _save_records(channel, part)
    assert (await save(channel, MANUAL, id="manual", chunk_characters=200)).unchanged
    listed = await documents_stub(channel).ListDocuments(pb.ListDocumentsRequest())
    assert [document.id for document in listed.documents] == ["manual"]
    # Once it succeeds, the document may have other parts than its file makes.
    await _save_records(channel, _part(index=1))
    assert not (await save(channel, MANUAL, id="manual", chunk_characters=200)).unchanged


@pytest.mark.parametrize(
    ("saved", "noted"), [("before", "between"), ("before", "after"), ("between", "between"), ("between", "after")]
)
async def test_parts_that_are_saved_while_their_namespace_is_cleared_have_a_document(
    everywhere: Harness, store: tuple[str, str], monkeypatch: pytest.MonkeyPatch, saved: str, noted: str
) -> None:
    channel = everywhere.channel()
    await save(channel, MANUAL, id="manual", chunk_characters=200)
    kind = (STORES | {"pgvector": PgvectorMemoryStore}).get(store[0], SqlMemoryStore)
    clear, note, noting, go_on = kind.clear, DocumentParts.note_saved, asyncio.Event(), asyncio.Event()
    saves: list[asyncio.Task[Any]] = []

    async def start() -> None:
        saves.append(asyncio.ensure_future(_save_records(channel, _part(index=1), _part("new"))))
        # One transaction of the service's own has both.
        await (saves[0] if kind is SqlMemoryStore else noting.wait())

    async def waiting(*given: Any) -> None:
        noting.set()
        await go_on.wait()
        await note(*given)

    async def overtaken(*given: Any) -> int:
        if saved == "before":
            await start()
        removed = await clear(*given)
        if saved == "between":
            await start()
        if noted == "between":
            go_on.set()
            await asyncio.gather(*saves)
        return int(removed)

    with monkeypatch.context() as patched:
        patched.setattr(kind, "clear", overtaken)
        patched.setattr(DocumentParts, "note_saved", waiting)
        await stub(channel).ClearNamespace(memory_pb2.ClearNamespaceRequest(namespace=place("", DOCUMENTS)))
        go_on.set()
        await asyncio.gather(*saves)
    there = {one.id for one in (await documents_stub(channel).ListDocuments(pb.ListDocumentsRequest())).documents}
    found = {name for name in ("manual", "new") if await parts(channel, name)}
    # An index that shows writes late cannot tell in time that parts have gone.
    assert found <= there if store[0] == "databricks" else found == there


async def test_parts_that_are_saved_expire_with_their_document(memory: Harness) -> None:
    channel = memory.channel()
    expires = Timestamp(seconds=4_000_000_000)
    saved = (await save(channel, MANUAL, id="manual", chunk_characters=200, expire_time=expires)).document
    late = Timestamp(seconds=4_100_000_000)
    first, second = _part("new"), _part("new", index=1)
    first.expire_time.CopyFrom(expires)
    second.expire_time.CopyFrom(late)
    await _save_records(channel, _part(revision=saved.revision), first, second)
    for name in ("manual", "new"):
        assert {part.expire_time.seconds for part in await parts(channel, name)} == {expires.seconds}
        found = await documents_stub(channel).GetDocument(pb.GetDocumentRequest(id=name))
        assert found.document.expire_time == expires


@pytest.mark.parametrize("store", ["pgvector", "databricks"], indirect=True)
async def test_a_repair_removes_no_parts_that_are_expected_while_it_looks(
    everywhere: Harness, store: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = everywhere.channel()
    service = cast("MemoryService", everywhere.services["memory"])

    async def fail(*given: Any, **named: Any) -> Any:
        raise Unavailable("the store does not answer", reason="DEPENDENCY_UNAVAILABLE")

    with monkeypatch.context() as patched:
        patched.setattr(STORES_BY_NAME[store[0]], "save", fail)
        with refused(CODE.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE"):
            await _save_records(channel, _part(), _part(index=1))
    async with service._database.write() as connection:
        await connection.execute(update(documents).values(due_us=0))
    kind = STORES_BY_NAME[store[0]]
    look, save_parts, remove = DocumentRepairs._stored, kind.save, kind.remove_document
    looked, expected, removing, saved = (asyncio.Event() for _ in range(4))

    async def slow_look(self: DocumentRepairs, *given: Any) -> Any:
        found = await look(self, *given)
        looked.set()
        await expected.wait()
        return found

    async def slow_save(*given: Any, **named: Any) -> Any:
        expected.set()
        await until(lambda: removing.is_set() or not service._repairs._running)
        return await save_parts(*given, **named)

    async def slow_removal(*given: Any, **named: Any) -> Any:
        removing.set()
        await saved.wait()
        return await remove(*given, **named)

    monkeypatch.setattr(DocumentRepairs, "_stored", slow_look)
    monkeypatch.setattr(kind, "remove_document", slow_removal)
    await save(channel, "Here to stay.", id="other")
    await looked.wait()
    monkeypatch.setattr(kind, "save", slow_save)
    await _save_records(channel, _part(), _part(index=1))
    saved.set()
    await until(lambda: not service._repairs._running)
    assert len(await parts(channel, "manual")) == 2
    assert (await documents_stub(channel).GetDocument(pb.GetDocumentRequest(id="manual"))).document.part_count == 2


@pytest.mark.parametrize("store", ["pgvector"], indirect=True)
async def test_parts_whose_caller_goes_away_once_they_are_saved_have_a_document(
    everywhere: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = everywhere.channel()
    note, saved, noted = DocumentParts.note_saved, asyncio.Event(), asyncio.Event()

    async def slow(*given: Any) -> None:
        if saved.is_set():
            await note(*given)
            noted.set()
        saved.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(DocumentParts, "note_saved", slow)
    saving = asyncio.ensure_future(_save_records(channel, _part()))
    await saved.wait()
    saving.cancel()
    async with asyncio.timeout(60):
        await noted.wait()
    assert (await documents_stub(channel).GetDocument(pb.GetDocumentRequest(id="manual"))).document.revision == 1
    assert len(await parts(channel, "manual")) == 1


@pytest.mark.parametrize(
    ("store", "fails"), [("sqlite", False), ("pgvector", False), ("pgvector", True)], indirect=["store"]
)
async def test_parts_that_a_save_of_their_document_overtakes_go(
    everywhere: Harness, store: tuple[str, str], monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    channel = everywhere.channel()
    await save(channel, MANUAL, id="manual", chunk_characters=200)
    kind: Any = SqlMemoryStore if store[0] == "sqlite" else PgvectorMemoryStore
    save_parts = kind.save

    async def overtaken(*given: Any, **named: Any) -> Any:
        await save(channel, MANUAL[:300], id="manual", chunk_characters=200)
        return await save_parts(*given, **named)

    async def fail(*given: Any, **named: Any) -> Any:
        raise Unavailable("the database does not answer", reason="DEPENDENCY_UNAVAILABLE")

    with monkeypatch.context() as patched:
        patched.setattr(kind, "save", overtaken)
        if fails:
            patched.setattr(kind, "delete", fail)
        with refused(CODE.ABORTED, "REVISION_MISMATCH"):
            await _save_records(channel, _part(index=1))
    found = {part.document.document_revision for part in await parts(channel, "manual")}
    assert found == ({1, 2} if fails else {2})
    document = (await documents_stub(channel).GetDocument(pb.GetDocumentRequest(id="manual"))).document
    assert document.revision == 2
    last = (await save(channel, MANUAL, id="manual", chunk_characters=200)).document
    left = await parts(channel, "manual")
    assert [part.document.document_revision for part in left] == [last.revision] * last.part_count


async def test_models_are_asked_once_for_each_part_with_the_headings_above(
    served: tuple[Harness, EmbeddingModels],
) -> None:
    harness, models = served
    channel = harness.channel()
    saved = await save(channel, MANUAL, file_name="manual.md", chunk_characters=200)
    assert saved.document.id == "manual.md"
    assert len(models.texts) == saved.document.part_count
    assert models.texts[-1].startswith("Manual > Boats\n\n")
    await save(channel, MANUAL, file_name="manual.md", chunk_characters=200)
    assert len(models.texts) == saved.document.part_count
    with refused(CODE.FAILED_PRECONDITION, "EMBEDDING_MISMATCH"):
        await save(channel, "x", id="wide", embedding_model="test/wide")


async def test_pages_of_a_pdf_file_are_told_apart(memory: Harness) -> None:
    channel = memory.channel()
    saved = await save(channel, pdf_of("About lamps", "About boats"), file_name="guide.pdf")
    assert (saved.document.media_type, saved.document.page_count) == ("application/pdf", 2)
    assert [(part.document.page, part.document.content) for part in await parts(channel, "guide.pdf")] == [
        (1, "About lamps"),
        (2, "About boats"),
    ]


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([], "header"),
        ([pb.SaveDocumentRequest(chunk=b"x")], "header"),
        (list(upload(b"x")), "header.id"),
        (list(upload(b"", id="a")), "chunk"),
        ([*upload(b"x", id="a"), *upload(b"x", id="b")], "header"),
        (list(upload(b"xy", id="a", expected_bytes=3)), "header.expected_bytes"),
        (list(upload(b"x", id="a", expected_bytes=1 << 40)), "header.expected_bytes"),
        (list(upload(b"x", id="a", chunk_characters=5)), "header.chunk_characters"),
        (list(upload(b"x", id="a", chunk_characters=200, overlap_characters=60)), "header.overlap_characters"),
        (list(upload(b"x", id="a", media_type="pdf")), "header.media_type"),
        (list(upload(b"x", id="a", media_type="text/plain; charset*=a; charset*0=b")), "header.media_type"),
    ],
)
async def test_what_cannot_be_saved_names_the_field(
    memory: Harness, requests: list[pb.SaveDocumentRequest], field: str
) -> None:
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
        async for _ in documents_stub(memory.channel()).SaveDocument(iter(requests)):
            pass
    assert refusal.fields == [field]
