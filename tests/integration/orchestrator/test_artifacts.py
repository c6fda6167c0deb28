"""The files of executions over real gRPC: listed, downloaded in pieces, never another group's."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio

from coxswain.orchestrator.v1 import artifact_pb2 as pb
from coxswain.orchestrator.v1 import crew_pb2, execution_pb2
from coxswain.orchestrator.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from services.common.clock import utc_now
from services.common.ids import new_id
from services.orchestrator.artifact_contents import new_artifact
from services.orchestrator.domain.artifact import CHUNK_BYTES
from services.orchestrator.domain.execution import ExecutionState
from services.orchestrator.domain.tool import ToolCallState
from services.orchestrator.repositories.artifacts import ArtifactRepository
from services.orchestrator.repositories.executions import read_execution
from services.orchestrator.repositories.journal import JournalRepository, ToolCall
from tests.integration.orchestrator.support import (
    EVERY_FIELD,
    Worker,
    crews,
    executions_of,
    refused,
    spec,
    start,
    start_request,
    working,
)
from tests.support.harness import ALICE, BOB, Harness, serve_services

if TYPE_CHECKING:
    from coxswain.orchestrator.v1.artifact_service_pb2_grpc import ArtifactServiceAsyncStub

CODE = grpc.StatusCode

pytestmark = pytest.mark.asyncio(loop_scope="module")
TASKS = ("read", "edit", "check")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def harness(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    """Starting services takes seconds: tests share them."""
    directory = tmp_path_factory.mktemp("services")
    async with serve_services(directory, "models", "orchestrator", database_url=shared_database_url) as served:
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worker(harness: Harness, shared_database_url: str) -> AsyncIterator[Worker]:
    """Somebody who plays the worker host."""
    async with working(harness, shared_database_url) as played:
        yield played


def artifacts_of(harness: Harness, bearer: str = ALICE) -> "ArtifactServiceAsyncStub":
    channel: grpc.aio.Channel = harness.channel(bearer)
    return ArtifactServiceStub(channel)


async def put(
    worker: Worker, execution_id: str, task: int, name: str, content: bytes, *, revision: int = 1, call_id: str = "c"
) -> None:
    """Store a file as a worker host does."""
    execution = await read_execution(worker.database, "sales", execution_id)
    assert execution is not None
    sha256 = hashlib.sha256(content).hexdigest()
    artifact = new_artifact(
        execution, task, TASKS[task], name, len(content), sha256, revision=revision, call_id=call_id
    )
    async with worker.database.write() as connection:
        await ArtifactRepository(connection, execution_id).put(artifact, content)


async def names(harness: Harness, execution_id: str, bearer: str = ALICE, **fields: Any) -> list[str]:
    """Return the names of an execution's files, read in pages of two."""
    found: list[str] = []
    request = pb.ListArtifactsRequest(execution_id=execution_id, page_size=2, **fields)
    while True:
        page = await artifacts_of(harness, bearer).ListArtifacts(request)
        assert len(page.artifacts) <= 2
        found += [one.name for one in page.artifacts]
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


async def pieces(
    stub: "ArtifactServiceAsyncStub", execution_id: str, name: str, **fields: Any
) -> AsyncIterator[pb.DownloadArtifactResponse]:
    request = pb.DownloadArtifactRequest(execution_id=execution_id, name=name, **fields)
    async for response in stub.DownloadArtifact(request):
        yield response


async def downloaded(stub: "ArtifactServiceAsyncStub", execution_id: str, name: str, **fields: Any) -> bytes:
    return b"".join([response.content async for response in pieces(stub, execution_id, name, **fields)])


async def test_files_are_listed_and_downloaded_from_anywhere_on(harness: Harness, worker: Worker) -> None:
    made = await start(harness)
    large = os.urandom(2 * CHUNK_BYTES + 77)
    for name in ("b.md", "a/z.md", "A.csv", "ä.md"):
        await put(worker, made.id, 0, name, name.encode())
    await put(worker, made.id, 1, "large.bin", large)
    await put(worker, made.id, 1, "b.md", b"newer", revision=2)
    await put(worker, made.id, 2, "empty", b"", call_id="")
    assert await names(harness, made.id) == ["A.csv", "a/z.md", "b.md", "empty", "large.bin", "ä.md"]
    assert await names(harness, made.id, task_name="edit") == ["b.md", "large.bin"]
    assert await names(harness, made.id, name_prefix="a/") == ["a/z.md"]
    assert await names(harness, made.id, name_prefix="A") == ["A.csv"], "upper case is not lower case"
    assert await names(harness, made.id, name_prefix="%") == []
    assert await names(harness, made.id, name_prefix="a\u0308") == ["ä.md"], "however its letters are composed"
    assert await downloaded(artifacts_of(harness), made.id, "a\u0308.md") == "ä.md".encode()

    stub = artifacts_of(harness, "dev:otto:sales=operator")
    got = (await stub.GetArtifact(pb.GetArtifactRequest(execution_id=made.id, name="b.md"))).artifact
    assert (got.execution_id, got.name, got.task_name, got.call_id) == (made.id, "b.md", "edit", "c")
    assert (got.media_type, got.size_bytes, got.revision) == ("text/markdown", 5, 2)
    assert got.sha256 == hashlib.sha256(b"newer").hexdigest()
    assert got.HasField("store_time")
    assert await downloaded(stub, made.id, "b.md") == b"newer"
    assert await downloaded(stub, made.id, "b.md", revision=1) == b"b.md"
    for offset in (0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, len(large) - 1, len(large)):
        responses = [one async for one in pieces(stub, made.id, "large.bin", offset=offset)]
        assert b"".join(one.content for one in responses) == large[offset:]
        assert [one.HasField("artifact") for one in responses] == [True, *[False] * (len(responses) - 1)]
        assert all(len(one.content) <= CHUNK_BYTES for one in responses)
    (empty,) = [one async for one in pieces(stub, made.id, "empty")]
    assert (empty.artifact.size_bytes, empty.content) == (0, b"")
    tasks = (await executions_of(harness).GetTaskOutputs(execution_pb2.GetTaskOutputsRequest(id=made.id))).tasks
    assert [task.output_artifact for task in tasks] == ["", "", "empty"]


async def test_a_file_that_changes_while_it_is_downloaded_is_not_mixed(harness: Harness, worker: Worker) -> None:
    made = await start(harness)
    # Far more than lies in the buffers between both ends.
    await put(worker, made.id, 0, "a", b"x" * (64 * CHUNK_BYTES))
    responses = pieces(artifacts_of(harness), made.id, "a")
    first = await anext(responses)
    await put(worker, made.id, 0, "a", b"y", revision=2)
    with refused(CODE.ABORTED, "REVISION_MISMATCH") as refusal:
        async for response in responses:
            assert set(response.content) == {ord("x")}
    assert (refusal.metadata["expected"], refusal.metadata["actual"]) == ("1", "2")
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        await downloaded(artifacts_of(harness), made.id, "a", revision=first.artifact.revision, offset=5)


async def test_a_file_that_is_deleted_while_it_is_downloaded_is_gone(harness: Harness, worker: Worker) -> None:
    made = await start(harness)
    await put(worker, made.id, 0, "a", b"x" * (64 * CHUNK_BYTES))
    await worker.end(made.id, ExecutionState.CANCELLED, execution_pb2.ExecutionCancelled())
    responses = pieces(artifacts_of(harness), made.id, "a")
    await anext(responses)
    assert (await executions_of(harness).DeleteExecution(execution_pb2.DeleteExecutionRequest(id=made.id))).deleted
    with refused(CODE.NOT_FOUND, "NOT_FOUND"):
        async for _ in responses:
            pass


async def test_nobody_gets_what_another_group_or_no_execution_has(harness: Harness, worker: Worker) -> None:
    made = await start(harness)
    await put(worker, made.id, 0, "a", b"secret")
    bob = artifacts_of(harness, BOB)
    for call in (
        lambda: bob.ListArtifacts(pb.ListArtifactsRequest(execution_id=made.id)),
        lambda: bob.GetArtifact(pb.GetArtifactRequest(execution_id=made.id, name="a")),
        lambda: downloaded(bob, made.id, "a"),
        lambda: downloaded(bob, made.id, "a", revision=1),
        lambda: artifacts_of(harness).ListArtifacts(pb.ListArtifactsRequest(execution_id=new_id())),
    ):
        with refused(CODE.NOT_FOUND, "NOT_FOUND"):
            await call()
    token = (await artifacts_of(harness).ListArtifacts(pb.ListArtifactsRequest(execution_id=made.id))).next_page_token
    assert token == ""


async def test_wrong_requests_are_refused_in_words(harness: Harness, worker: Worker) -> None:
    made = await start(harness)
    await put(worker, made.id, 0, "a", b"12345")
    stub = artifacts_of(harness)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"name": ""}, "name"),
        ({"name": "x" * 10_000}, "name"),
        ({"name": "a\0"}, "name"),
        ({"name": "a", "execution_id": ""}, "execution_id"),
        ({"name": "a", "revision": -1}, "revision"),
        ({"name": "a", "offset": -1}, "offset"),
        ({"name": "a", "offset": 6}, "offset"),
        ({"name": "a", "offset": 2**62}, "offset"),
    ]
    for fields, field in wrong:
        request = pb.DownloadArtifactRequest(**{"execution_id": made.id, **fields})
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await stub.DownloadArtifact(request).read()
        assert set(refusal.violations) == {field}
    for name in ("../a", "/a", "./a", "A", "a/", "b"):
        with refused(CODE.NOT_FOUND, "NOT_FOUND"):
            await downloaded(stub, made.id, name)
    for fields, reason in (({"page_size": 1001}, "INVALID_FIELD"), ({"page_token": "x"}, "INVALID_PAGE_TOKEN")):
        with refused(CODE.INVALID_ARGUMENT, reason):
            await stub.ListArtifacts(pb.ListArtifactsRequest(execution_id=made.id, **fields))


async def test_other_calls_are_answered_while_a_file_is_downloaded(harness: Harness, worker: Worker) -> None:
    made = await start(harness)
    content = b"x" * (32 * CHUNK_BYTES)
    await put(worker, made.id, 0, "a", content)
    stub, done = artifacts_of(harness), asyncio.Event()

    async def download() -> None:
        assert await downloaded(stub, made.id, "a") == content
        done.set()

    async def ask() -> int:
        answered = 0
        while not done.is_set():
            await stub.GetArtifact(pb.GetArtifactRequest(execution_id=made.id, name="a"))
            answered += 1
        return answered

    asking = asyncio.create_task(ask())
    await download()
    answered = await asking
    assert answered >= 3


async def test_crews_with_names_that_are_none_are_refused(harness: Harness) -> None:
    bad = spec()
    for task, name in zip(bad.tasks, ("../{topic}", "notes", "notes/a.md"), strict=True):
        task.output_file = name
    with refused(CODE.INVALID_ARGUMENT, "CREW_INVALID") as refusal:
        await crews(harness).CreateCrew(crew_pb2.CreateCrewRequest(spec=bad))
    assert set(refusal.violations) == {"spec.tasks[0].output_file", "spec.tasks[2].output_file"}
    bad.tasks[0].output_file, bad.tasks[2].output_file = "x" * 257, "notes"
    validated = await crews(harness).ValidateCrew(crew_pb2.ValidateCrewRequest(spec=bad))
    assert [fault.field for fault in validated.faults] == ["spec.tasks[0].output_file"]
    assert [fault.field for fault in validated.warnings] == ["spec.tasks[2].output_file"]


async def test_inputs_that_make_no_name_are_refused_before_anything_is_paid_for(harness: Harness) -> None:
    document = spec(f"crew {new_id()}")
    document.tasks[0].output_file = "out/{customer}.md"
    crew = (await crews(harness).CreateCrew(crew_pb2.CreateCrewRequest(spec=document))).crew
    assert "customer" in crew.input_names
    assert crew.spec.tasks[0].output_file == "out/{customer}.md"
    for value in ("../../etc/passwd", "CON/../x", "a\nb", "a" * 300, "/"):
        request = start_request(crew.id)
        request.inputs["customer"].string_value = value
        with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD") as refusal:
            await executions_of(harness).StartExecution(request)
        assert set(refusal.violations) == {"inputs.customer"}
    request = start_request(crew.id)
    request.inputs["customer"].string_value = "ACME & Söhne"
    assert (await executions_of(harness).StartExecution(request)).execution.id


async def test_files_of_copied_tasks_go_along(harness: Harness, worker: Worker) -> None:
    document = spec(f"crew {new_id()}")
    document.tasks[0].output_file, document.tasks[1].output_file = "read.md", "edit.md"
    crew = (await crews(harness).CreateCrew(crew_pb2.CreateCrewRequest(spec=document))).crew
    made = (await executions_of(harness).StartExecution(start_request(crew.id))).execution
    await worker.claim(made.id)
    await put(worker, made.id, 0, "notes.md", b"first notes")
    await put(worker, made.id, 0, "read.md", b"read text", call_id="")
    await put(worker, made.id, 1, "notes.md", b"second notes", revision=2)
    await put(worker, made.id, 1, "edit.md", b"edit text", call_id="")
    await put(worker, made.id, 2, "check.md", b"only here")
    for index, text in enumerate(("read text", "edit text", "check text")):
        await worker.finish_task(made.id, index, text)
    await worker.end(made.id, ExecutionState.SUCCEEDED, execution_pb2.ExecutionSucceeded())

    stub, fork = artifacts_of(harness), execution_pb2.ForkExecutionRequest
    last = (await executions_of(harness).ForkExecution(fork(id=made.id, from_task="check"))).execution
    assert await names(harness, last.id) == ["edit.md", "notes.md", "read.md"]
    assert await downloaded(stub, last.id, "notes.md") == b"second notes"
    second = (await executions_of(harness).ForkExecution(fork(id=made.id, from_task="edit"))).execution
    assert await names(harness, second.id) == ["notes.md", "read.md"]
    assert await downloaded(stub, second.id, "notes.md") == b"first notes", "what the task left that is not run again"

    # A result that is copied goes by the name that the crew has now.
    document.tasks[0].output_file = "renamed.md"
    change = crew_pb2.UpdateCrewRequest(id=crew.id, spec=document, update_mask=EVERY_FIELD)
    await crews(harness).UpdateCrew(change)
    renamed = fork(id=made.id, from_task="edit", crew_revision=0)
    third = (await executions_of(harness).ForkExecution(renamed)).execution
    assert await names(harness, third.id) == ["notes.md", "renamed.md"]
    assert await downloaded(stub, third.id, "renamed.md") == b"read text"
    tasks = (await executions_of(harness).GetTaskOutputs(execution_pb2.GetTaskOutputsRequest(id=third.id))).tasks
    assert [(task.copied, task.output_artifact) for task in tasks] == [(True, "renamed.md"), (False, ""), (False, "")]
    assert await names(harness, made.id) == ["check.md", "edit.md", "notes.md", "read.md"]

    assert (await executions_of(harness).DeleteExecution(execution_pb2.DeleteExecutionRequest(id=made.id))).deleted
    assert await downloaded(stub, third.id, "notes.md") == b"first notes"


async def test_files_of_what_is_not_done_twice_stay_with_a_task_that_starts_over(
    harness: Harness, worker: Worker
) -> None:
    made = await start(harness)
    await worker.claim(made.id)
    await worker.finish_task(made.id, 0, "read text")
    await put(worker, made.id, 1, "receipt.pdf", b"paid", call_id="pay")
    await put(worker, made.id, 1, "draft.md", b"draft", call_id="write")
    async with worker.database.write() as connection:
        journal = JournalRepository(connection, made.id)
        for key, idempotent in (("pay", False), ("write", True)):
            call = ToolCall(ToolCallState.COMPLETED, "done", "", key, key, idempotent=idempotent, intended_at=utc_now())
            await journal.put_tool_call(1, key, call, 1)
    await worker.end(made.id, ExecutionState.FAILED, execution_pb2.ExecutionFailed())
    fork, resume = execution_pb2.ForkExecutionRequest, execution_pb2.ResumeExecutionRequest
    over = (await executions_of(harness).ForkExecution(fork(id=made.id, from_task="edit"))).execution
    assert await names(harness, over.id) == ["receipt.pdf"]
    on = (await executions_of(harness).ResumeExecution(resume(id=made.id))).execution
    assert await names(harness, on.id) == ["draft.md", "receipt.pdf"]
    assert await downloaded(artifacts_of(harness), on.id, "receipt.pdf") == b"paid"
