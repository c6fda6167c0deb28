"""A process that is killed after any write: later no document is there without parts, and no part without its document.

Each call is made again and again, and killed one write later each time, until it ends. Writes are transactions of the
service's database and of a group's own, and what is done to records in a workspace.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any, cast

import grpc
import pytest
from sqlalchemy import update

from coxswain.memory.v1 import document_pb2 as pb
from coxswain.memory.v1 import memory_pb2, record_pb2
from services.common.clock import utc_now
from services.memory.service import MemoryService
from services.memory.stores import documents as stepwise
from services.memory.stores.databricks.store import DatabricksMemoryStore
from services.memory.stores.pgvector.database import BackendDatabase
from services.memory.tables import documents
from services.memory.usecases import document_repairs
from tests.integration.memory.documents import DOCUMENTS, documents_stub, save
from tests.integration.memory.support import place, stub
from tests.support.harness import Harness
from tests.support.waiting import until

TEXT = "The keeper lights the lamp at dusk and trims the wick. " * 12
MOST_WRITES = 30


class Process:
    """What is killed after some writes, and started again."""

    def __init__(self, harness: Harness, patched: pytest.MonkeyPatch) -> None:
        self.channel = harness.channel()
        self.memories, self.documents = stub(self.channel), documents_stub(self.channel)
        self.service = cast("MemoryService", harness.services["memory"])
        self.is_killed = False
        self._left: int | None = None
        self._write = self.service._database.write
        patched.setattr(self.service._database, "write", self._killed_after(self._write))
        patched.setattr(BackendDatabase, "write", self._killed_after(BackendDatabase.write))
        for name in ("save", "delete", "clear"):
            call = getattr(DatabricksMemoryStore, name)
            patched.setattr(DatabricksMemoryStore, name, self._killed_after_call(call))
        patched.setattr(stepwise, "_SAVED_AT_ONCE", 2)

    def _killed_after(self, write: Callable[..., Any]) -> Callable[..., Any]:
        @contextlib.asynccontextmanager
        async def wrapped(*given: Any) -> AsyncIterator[Any]:
            async with write(*given) as connection:
                yield connection
            self._step()

        return wrapped

    def _killed_after_call(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def wrapped(*given: Any, **named: Any) -> Any:
            result = await call(*given, **named)
            self._step()
            return result

        return wrapped

    def _step(self) -> None:
        if self._left == 0:
            self.is_killed = True
            # No failure that is expected: nothing is tidied up, as when the process is killed.
            raise RuntimeError("killed")
        if self._left is not None:
            self._left -= 1

    async def run(self, call: Callable[[str], Awaitable[Any]], name: str, writes: int) -> None:
        self.is_killed, self._left = False, writes
        try:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await call(name)
        finally:
            self._left = None

    async def wait_for_repairs(self) -> None:
        """Let what had begun be long ago, and others save and sweep."""
        # One that runs has read what is due by the true time.
        await until(lambda: not self.service._repairs._running)
        async with self._write() as connection:
            await connection.execute(update(documents).where(documents.c.due_us.is_not(None)).values(due_us=0))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(document_repairs, "utc_now", lambda: utc_now() + timedelta(days=2))
            await self.service._remove_expired()
            await save(self.channel, "Here to stay.", id="another")
            await until(lambda: not self.service._repairs._running)

    async def save(self, name: str) -> None:
        await save(self.channel, TEXT, id=name, chunk_characters=200)

    async def replace(self, name: str) -> None:
        await save(self.channel, TEXT[:400], id=name, chunk_characters=200)

    async def remove(self, name: str) -> None:
        await self.documents.DeleteDocument(pb.DeleteDocumentRequest(id=name))

    async def save_parts(self, name: str) -> None:
        """As an import does, of another revision than a save begins with."""
        body = record_pb2.DocumentRecord(
            content="From elsewhere.", parent_document_id=name, document_revision=7, part_count=1
        )
        records = [record_pb2.Record(id=f"{name}#7.0", document=body)]
        await self.memories.SaveRecords(memory_pb2.SaveRecordsRequest(namespace=place("", DOCUMENTS), records=records))

    async def clear(self, _name: str) -> None:
        await self.memories.ClearNamespace(memory_pb2.ClearNamespaceRequest(namespace=place("", DOCUMENTS)))

    async def revisions(self) -> tuple[dict[str, set[int]], dict[str, set[int]]]:
        """Return the revision of each document that is there, and those that its parts have."""
        listed = (await self.documents.ListDocuments(pb.ListDocumentsRequest(page_size=1000))).documents
        request = memory_pb2.ListRecordsRequest(namespace=place("", DOCUMENTS), page_size=1000)
        of_parts: dict[str, set[int]] = {}
        for record in (await self.memories.ListRecords(request)).records:
            body = record.document
            of_parts.setdefault(body.parent_document_id, set()).add(body.document_revision)
        return {document.id: {document.revision} for document in listed}, of_parts


CALLS = [
    ("", "save"),
    ("save", "replace"),
    ("save", "remove"),
    ("", "save_parts"),
    ("save_parts", "save_parts"),
    ("save_parts", "save"),
    ("save", "clear"),
]


@pytest.mark.parametrize("store", ["sqlite", "pgvector", "databricks"], indirect=True)
async def test_a_call_that_is_killed_leaves_documents_and_their_parts_alike(
    everywhere: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(everywhere, monkeypatch)
    for before, killed in CALLS:
        for writes in range(MOST_WRITES):
            name = f"{killed}-{writes}"
            if before:
                await getattr(process, before)(name)
            await process.run(getattr(process, killed), name, writes)
            there = await process.revisions()
            await process.wait_for_repairs()
            listed, found = await process.revisions()
            assert listed == found, (before, killed, writes, there)
            if not process.is_killed:
                break
        assert not process.is_killed
        assert writes, f"{killed} has written nothing"
        await process.clear("")
    async with process.service._database.read() as connection:
        left = [row.document_id for row in await connection.execute(documents.select()) if row.due_us == 0]
    assert left == []
