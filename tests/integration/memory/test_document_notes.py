"""What a call notes of the parts it is about to write, while others save the same document in a workspace."""

import asyncio
from datetime import timedelta
from typing import Any, cast

import grpc
import pytest
from sqlalchemy import select

from coxswain.memory.v1 import document_pb2 as pb
from coxswain.memory.v1 import memory_pb2, record_pb2
from services.common.clock import utc_now
from services.memory.service import MemoryService
from services.memory.stores.databricks.store import DatabricksMemoryStore
from services.memory.stores.pgvector.store import PgvectorMemoryStore
from services.memory.tables import documents
from tests.integration.memory.documents import DOCUMENTS, documents_stub, parts, save
from tests.integration.memory.support import place, stub
from tests.support.harness import Harness
from tests.support.waiting import until

TEXT = "The keeper lights the lamp at dusk and trims the wick. " * 12


async def _revisions(channel: grpc.aio.Channel) -> set[int]:
    return {part.document.document_revision for part in await parts(channel, "manual")}


async def _import(channel: grpc.aio.Channel, part: record_pb2.Record) -> None:
    records = [record_pb2.Record(id=part.id, document=part.document)]
    await stub(channel).SaveRecords(memory_pb2.SaveRecordsRequest(namespace=place("", DOCUMENTS), records=records))


async def _rows(harness: Harness) -> set[str]:
    async with cast("MemoryService", harness.services["memory"])._database.read() as connection:
        return set(await connection.scalars(select(documents.c.document_id)))


async def _repair_after(harness: Harness, monkeypatch: pytest.MonkeyPatch, time: timedelta) -> None:
    service = cast("MemoryService", harness.services["memory"])
    # One that runs has read what is due by the true time.
    await until(lambda: not service._repairs._running)
    for module in ("document_repairs", "document_parts"):
        monkeypatch.setattr(f"services.memory.usecases.{module}.utc_now", lambda: utc_now() + time)
    await save(harness.channel(), "Something else.", id="other")
    await until(lambda: not service._repairs._running)


@pytest.mark.parametrize("store", ["databricks"], indirect=True)
@pytest.mark.parametrize("call", ["SaveDocument", "SaveRecords", "ForgetSubject"])
@pytest.mark.parametrize("other", ["SaveDocument", "DeleteDocument"])
async def test_parts_that_were_written_after_another_call_has_ended_go_although_their_caller_went_away(
    everywhere: Harness, monkeypatch: pytest.MonkeyPatch, call: str, other: str
) -> None:
    ann, ben = (everywhere.channel(f"dev:{name}:sales=admin") for name in ("ann", "ben"))
    for channel in (ann, ben):
        await save(channel, TEXT, id="manual", chunk_characters=200)
    [first, *_] = await parts(ann, "manual")
    write, begun, written = DatabricksMemoryStore.save, asyncio.Event(), asyncio.Event()
    overtaking = list[int]()

    async def overtaken(*given: Any, **named: Any) -> Any:
        is_first = not begun.is_set()
        begun.set()
        if is_first and other == "SaveDocument":
            saved = await save(ben, f"New. {TEXT}", id="manual", chunk_characters=200)
            overtaking.append(saved.document.revision)
        elif is_first:
            await documents_stub(ben).DeleteDocument(pb.DeleteDocumentRequest(id="manual"))
        result = await write(*given, **named)
        if is_first:
            written.set()
            await asyncio.Event().wait()
        return result

    async def begin() -> None:
        if call == "SaveDocument":
            await save(ann, f"Overtaken. {TEXT}", id="manual", chunk_characters=200)
        elif call == "SaveRecords":
            await _import(ann, first)
        else:
            await stub(ann).ForgetSubject(memory_pb2.ForgetSubjectRequest(subject="dev|ann"))

    with monkeypatch.context() as patched:
        patched.setattr(DatabricksMemoryStore, "save", overtaken)
        calling = asyncio.ensure_future(begin())
        await until(lambda: written.is_set() or calling.done(), "the overtaken call has written")
        if calling.done():
            await calling
        calling.cancel()
    assert await _revisions(ann) == {2 if call == "SaveDocument" else 1, *overtaking}
    await _repair_after(everywhere, monkeypatch, timedelta(days=1 if call == "SaveDocument" else 0, minutes=11))
    assert await _revisions(ann) == set(overtaking)
    assert await _rows(everywhere) == {"other", *(["manual"] if overtaking else [])}


@pytest.mark.parametrize("store", ["pgvector"], indirect=True)
async def test_parts_go_that_one_of_two_imports_wrote_after_the_other_and_a_save_had_ended(
    everywhere: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = everywhere.channel()
    await save(channel, TEXT, id="manual", chunk_characters=200)
    first, second, *_ = await parts(channel, "manual")
    write, begun = PgvectorMemoryStore.save, asyncio.Event()
    overtaking = list[int]()

    async def overtaken(*given: Any, **named: Any) -> Any:
        if begun.is_set():
            return await write(*given, **named)
        begun.set()
        await _import(channel, second)
        saved = await save(channel, f"New. {TEXT}", id="manual", chunk_characters=200)
        overtaking.append(saved.document.revision)
        await write(*given, **named)
        # No failure that is expected: nothing is tidied up, as when the process is killed.
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(PgvectorMemoryStore, "save", overtaken)
        with pytest.raises(grpc.aio.AioRpcError):
            await _import(channel, first)
    assert await _revisions(channel) == {1, *overtaking}
    await _repair_after(everywhere, monkeypatch, timedelta(minutes=11))
    assert await _revisions(channel) == set(overtaking)
