"""Saves beside removals on PostgreSQL: all end, none fails for what others do, and no part is there alone."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, cast

import asyncpg
import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from coxswain.memory.v1 import document_pb2 as pb
from coxswain.memory.v1 import memory_pb2, record_pb2
from services.common.clock import utc_now
from services.memory.service import MemoryService
from tests.integration.memory.documents import DOCUMENTS, documents_stub, of, save
from tests.integration.memory.support import place, stub
from tests.support.harness import Harness

TEXT = "The keeper lights the lamp at dusk and trims the wick. " * 12
IDS = ["a", "b", "c"]
CALLERS = 8
CALLS = 6
# What callers are told whom others have overtaken.
OVERTAKEN = {"OK", "ABORTED", "NOT_FOUND", "FAILED_PRECONDITION"}
LOCKS = (
    "SELECT pid, state, wait_event, pg_blocking_pids(pid) AS blocked_by, left(query, 100) AS query "
    "FROM pg_stat_activity WHERE datname = current_database()"
)


class Calls:
    """What callers do at random, all with the same documents."""

    def __init__(self, harness: Harness, seed: int) -> None:
        self.channel = harness.channel()
        self.memories, self.documents = stub(self.channel), documents_stub(self.channel)
        self._service = cast("MemoryService", harness.services["memory"])
        self._random = random.Random(seed)
        self.namespace = place("", DOCUMENTS)
        self.outcomes = Counter[str]()
        self._places = asyncio.Semaphore(3)

    async def make(self, number: int) -> None:
        calls: Mapping[str, Callable[[], Awaitable[Any]]] = {
            "save": self._save,
            "save again": self._save,
            "save parts": self._save_parts,
            "remove": lambda: self.documents.DeleteDocument(pb.DeleteDocumentRequest(id=self._any())),
            "remove parts": lambda: self.memories.DeleteRecords(
                memory_pb2.DeleteRecordsRequest(namespace=self.namespace, filter=of(self._any()))
            ),
            "clear": lambda: self.memories.ClearNamespace(memory_pb2.ClearNamespaceRequest(namespace=self.namespace)),
            "sweep": self._service._remove_expired,
        }
        for _ in range(number):
            name = self._random.choice(list(calls))
            try:
                await calls[name]()
                self.outcomes[f"{name} OK"] += 1
            except grpc.aio.AioRpcError as error:
                self.outcomes[f"{name} {error.code().name}"] += 1

    def _any(self) -> str:
        return self._random.choice(IDS)

    async def _save(self) -> None:
        text, expires = TEXT[: self._random.randrange(50, len(TEXT))], Timestamp()
        expires.FromDatetime(utc_now() + timedelta(seconds=self._random.choice([0.3, 3600])))
        # A group may save few documents at once.
        async with self._places:
            await save(self.channel, text, id=self._any(), chunk_characters=200, expire_time=expires)

    async def _save_parts(self) -> None:
        records = []
        for name in self._random.sample(IDS, 2):
            try:
                found = await self.documents.GetDocument(pb.GetDocumentRequest(id=name))
                revision = found.document.revision
            except grpc.aio.AioRpcError:
                revision = 1
            body = record_pb2.DocumentRecord(
                content="part", parent_document_id=name, document_revision=revision, part_count=3
            )
            records.append(record_pb2.Record(id=f"{name}#{revision}.0", document=body))
        await self.memories.SaveRecords(memory_pb2.SaveRecordsRequest(namespace=self.namespace, records=records))


@pytest.mark.parametrize("store", ["postgresql", "pgvector"], indirect=True)
async def test_saves_beside_removals_end_and_leave_no_parts_alone(everywhere: Harness, store: tuple[str, str]) -> None:
    calls = Calls(everywhere, seed=13)
    making = [asyncio.create_task(calls.make(CALLS)) for _ in range(CALLERS)]
    _, stuck = await asyncio.wait(making, timeout=90)
    if stuck:
        looking = await asyncpg.connect(store[1])
        waiting = [dict(row) for row in await looking.fetch(LOCKS)]
        await looking.close()
        raise AssertionError(f"{len(stuck)} callers wait for ever: {waiting}")
    await asyncio.gather(*making)
    assert {outcome.rpartition(" ")[2] for outcome in calls.outcomes} <= OVERTAKEN, calls.outcomes
    there = {one.id for one in (await calls.documents.ListDocuments(pb.ListDocumentsRequest())).documents}
    listed = await calls.memories.ListRecords(memory_pb2.ListRecordsRequest(namespace=calls.namespace, page_size=1000))
    assert {record.document.parent_document_id for record in listed.records} <= there
