"""Files that a host stores for its execution: fenced, limited, and there for the host that takes over."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_asyncio
from sqlalchemy import func, select

from coxswain.auth.v1 import delegation_pb2
from coxswain.orchestrator.v1 import execution_pb2
from services.common.db.database import Database
from services.common.grpc.limit_messages import limits_to_proto
from services.common.identity.group_limits import GroupLimits
from services.common.ids import new_id
from services.orchestrator.domain.artifact import CHUNK_BYTES, ArtifactLimits
from services.orchestrator.hints.bus import LocalHintBus
from services.orchestrator.repositories.artifacts import (
    ArtifactRepository,
    read_artifact,
    read_artifacts,
    read_group_bytes,
)
from services.orchestrator.repositories.retention import RetentionRepository
from services.orchestrator.tables import artifact_chunks, artifacts, executions
from services.orchestrator.tool_gateway.ports import StoredFile
from services.orchestrator.tool_gateway.usecases.artifact_uploads import ArtifactUploads
from services.orchestrator.worker.host.chunk_pruner import ChunkPruner
from services.orchestrator.worker.host.execution_files import ExecutionFiles, FileRefused
from services.orchestrator.worker.host.fenced_write import Fenced
from services.orchestrator.worker.host.principals import ExecutionPrincipal
from services.orchestrator.worker.host.recorder import Recorder, TaskRef
from services.orchestrator.worker.host.run_store import Claim, RunStore
from tests.integration.worker.rows import claimed, crew, event_rows, queue
from tests.support.service_tables import make_service_tables

pytestmark = pytest.mark.asyncio(loop_scope="module")

READ, WRITE = TaskRef(0, "read", 1), TaskRef(1, "write", 1)
LIMITS = ArtifactLimits(file_bytes=3_000_000, execution_bytes=4_000_000, execution_files=5, group_bytes=6_000_000)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(shared_database_url: str) -> AsyncIterator[Database]:
    make_service_tables("orchestrator", shared_database_url)
    opened = Database(shared_database_url, "orchestrator")
    yield opened
    await opened.close()


class Auth:
    """Says with each principal how many bytes the group may store."""

    def __init__(self, allowed: int | None) -> None:
        self.limits = GroupLimits(max_stored_bytes=allowed)

    async def IssueExecutionPrincipal(self, _: Any) -> delegation_pb2.IssueExecutionPrincipalResponse:
        return delegation_pb2.IssueExecutionPrincipalResponse(limits=limits_to_proto(self.limits))


def files_of(store: RunStore, claim: Claim, allowed: int | None = None) -> ExecutionFiles:
    recorder = Recorder(
        store,
        claim.execution,
        interval=60,
        hints=LocalHintBus(),
        pruner=ChunkPruner(store, retention=60),
        on_failure=lambda _: None,
    )
    principal = ExecutionPrincipal(cast("Any", Auth(allowed)), claim.execution.id, claim.execution.grant_id)
    return ExecutionFiles(
        store, claim.execution, recorder, limits=LIMITS, retry_seconds=0, limits_of_group=principal.limits
    )


async def test_files_are_stored_replaced_and_there_after_a_takeover(database: Database, store: RunStore) -> None:
    execution_id = await queue(database, crew("read", "write"))
    claim = await claimed(store, execution_id)
    files = files_of(store, claim)
    put = partial(files.store, call_id="c")
    first, changed = await put(READ, "notes/a.md", b"one")
    assert (first.revision, first.size, first.media_type, changed) == (1, 3, "text/markdown", True)
    assert first.sha256 == hashlib.sha256(b"one").hexdigest()
    assert await put(READ, "notes/a.md", b"one") == (first, False), "the same content again is no revision"
    second, _ = await put(READ, "notes/a.md", b"two")
    third, _ = await put(WRITE, "notes/a.md", b"three")
    empty, _ = await put(READ, "empty", b"")
    assert (second.revision, third.revision) == (2, 3)
    stored = [execution_pb2.ExecutionEvent.FromString(row.payload) for row in await event_rows(database, execution_id)]
    told = [event.artifact_stored for event in stored if event.WhichOneof("event") == "artifact_stored"]
    assert [(one.name, one.revision, one.size_bytes, one.call_id) for one in told] == [
        ("notes/a.md", 1, 3, "c"),
        ("notes/a.md", 2, 3, "c"),
        ("notes/a.md", 3, 5, "c"),
        ("empty", 1, 0, "c"),
    ]
    kept = {(one.name, one.task_name, one.revision) for one in await read_artifacts(database, execution_id)}
    assert kept == {("notes/a.md", "read", 2), ("notes/a.md", "write", 3), ("empty", "read", 1)}
    assert await read_artifact(database, "sales", execution_id, "notes/a.md") == third
    assert await read_artifact(database, "sales", execution_id, "notes/a.md", 2) == second
    assert await read_artifact(database, "sales", execution_id, "notes/a.md", 1) is None
    assert await read_artifact(database, "legal", execution_id, "notes/a.md") is None

    takeover = await claimed(store, execution_id)
    after = files_of(store, takeover)
    assert await after.list() == [empty, third]
    assert await after.list("notes/") == [third]
    async with database.read() as connection:
        repository = ArtifactRepository(connection, execution_id)
        for prefix, found in (("notes/", [third]), ("Notes/", []), ("notes/a.md", [third]), ("notes/a.md\u00e4", [])):
            assert await repository.page(None, 10, task_name="", prefix=prefix) == found
    with pytest.raises(Fenced):
        await put(READ, "late.md", b"x")
    assert await after.read_text("late.md", 0, 10) is None
    fourth, _ = await after.store(READ, "notes/a.md", b"four", call_id="d")
    assert fourth.revision == 4
    page = await after.read_text("notes/a.md", 0, 10)
    assert page is not None
    assert (page.text, page.more) == ("four", False)

    async with database.write() as connection:
        ended = executions.update().where(executions.c.id == execution_id)
        await connection.execute(ended.values(ended_at=takeover.execution.created_at))
        assert await RetentionRepository(connection).delete("sales", [execution_id]) == 1
    async with database.read() as connection:
        left = select(func.count()).where(artifact_chunks.c.artifact_id.not_in(select(artifacts.c.id)))
        assert (await connection.execute(left)).scalar_one() == 0
    assert await read_artifacts(database, execution_id) == []


async def test_long_texts_are_read_in_pages_of_characters(database: Database, store: RunStore) -> None:
    files = files_of(store, await claimed(store, await queue(database, crew("read"))))
    # Characters of two and four bytes, so that pieces end within one.
    text = "aé🎉" * (2 * CHUNK_BYTES // 7 + 5)
    await files.store(READ, "long.txt", text.encode(), call_id="c")
    read, start = "", 0
    while (page := await files.read_text("long.txt", start, 50_000)) is not None:
        assert page.more == (len(text) > start + 50_000)
        read, start = read + page.text, start + len(page.text)
        if not page.more:
            break
    assert read == text
    beyond = await files.read_text("long.txt", len(text) + 5, 10)
    assert beyond is not None
    assert (beyond.text, beyond.more) == ("", False)
    await files.store(READ, "image.png", b"\x89PNG\xff", call_id="c", media_type="image/png")
    with pytest.raises(UnicodeDecodeError):
        await files.read_text("image.png", 0, 10)
    assert await files.read_text("none", 0, 10) is None


async def test_what_is_too_much_or_in_the_way_is_refused_and_nothing_of_it_stored(
    database: Database, store: RunStore
) -> None:
    group = new_id()
    execution_id = await queue(database, crew("read", "write"), group_id=group)
    claim = await claimed(store, execution_id)
    files = files_of(store, claim)
    await files.store(READ, "a.md", b"x" * 1_500_000, call_id="c")
    await files.store(WRITE, "a.md", b"y" * 1_500_000, call_id="c")
    for name, size, told in (
        ("big", 3_000_001, "3,000,000 bytes of a file"),
        ("b", 1_000_001, "4,000,000 bytes of an execution"),
    ):
        with pytest.raises(FileRefused, match=told) as refusal:
            await files.store(READ, name, b"z" * size, call_id="c")
        assert refusal.value.reason == "ARTIFACT_LIMIT_REACHED"
    for name in ("A.md", "a.md/b"):
        with pytest.raises(FileRefused, match="cannot lie beside") as refusal:
            await files.store(READ, name, b"", call_id="c")
        assert refusal.value.reason == "ARTIFACT_NAME_CONFLICT"
    # What it replaces does not count.
    await files.store(WRITE, "a.md", b"z" * 2_400_000, call_id="c")
    others = files_of(store, await claimed(store, await queue(database, crew("read"), group_id=group)))
    with pytest.raises(FileRefused, match="6,000,000 bytes of all files of a group"):
        await others.store(READ, "a.md", b"x" * 2_100_001, call_id="c")
    again = files_of(store, await claimed(store, execution_id))
    made = await asyncio.gather(*(again.store(READ, f"{n}", b"", call_id="c") for n in range(4)))
    assert len(made) == 4
    with pytest.raises(FileRefused, match="5 files"):
        await again.store(READ, "sixth", b"", call_id="c")
    revisions = await asyncio.gather(*(again.store(READ, "0", bytes([n]), call_id="c") for n in range(1, 4)))
    assert sorted(one.revision for one, _ in revisions) == [2, 3, 4], "two calls at once do not take the same revision"
    assert await read_group_bytes(database, group) == 3_900_001
    assert await read_group_bytes(database, "legal") == 0


async def test_a_host_that_asks_again_for_the_files_of_a_call_is_told_what_became_of_them(
    database: Database, store: RunStore
) -> None:
    group = new_id()
    execution_id = await queue(database, crew("read", "write"), group_id=group)
    files = files_of(store, await claimed(store, execution_id))
    made = tuple(
        StoredFile(name, "text/plain", content)
        for name, content in (("a", b"one"), ("b", b"two"), ("large", b"x" * 3_000_001))
    )
    order = SimpleNamespace(execution_id=execution_id, principal=SimpleNamespace(group_id=group))
    ids = await ArtifactUploads(database, max_bytes=0).keep(cast("Any", order), made)
    kept, refused = await files.take_over(READ, "c", ids)
    assert [one.name for one in kept] == ["a", "b"]
    assert "3,000,000 bytes of a file" in refused
    await files.store(READ, "a", b"other", call_id="d")
    await files.store(WRITE, "b", b"other", call_id="d")
    assert await files.take_over(READ, "c", ids) == (kept, refused)
    after = files_of(store, await claimed(store, execution_id))
    # The task itself has replaced the first one, of which nothing is left.
    assert await after.take_over(READ, "c", ids) == (kept[1:], f"1 of 3 files are not there any more; {refused}")
    # The content was dropped: what would fit by now does not come back empty.
    after._installation_limits = ArtifactLimits(0, 0, 0, 0)
    found, refused = await after.take_over(READ, "c", ids[2:])
    assert found == kept[1:]
    assert "was reached before" in refused


@pytest.mark.parametrize(("allowed", "kept"), [(None, True), (7_000_000, True), (3, False), (0, False)])
async def test_what_the_operator_allows_the_group_limits_its_files(
    database: Database, store: RunStore, allowed: int | None, kept: bool
) -> None:
    claim = await claimed(store, await queue(database, crew("read"), group_id=f"group {allowed}"))
    files = files_of(store, claim, allowed)
    await files.store(READ, "empty", b"", call_id="c")
    if kept:
        await files.store(READ, "a", b"four", call_id="c")
    else:
        with pytest.raises(FileRefused, match="of all files of a group"):
            await files.store(READ, "a", b"four", call_id="c")
