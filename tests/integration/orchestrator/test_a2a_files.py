"""Files that tools have stored, as artifacts of tasks."""

import json
from typing import Any

from a2a.compat.v0_3 import a2a_v0_3_pb2 as old
from a2a.compat.v0_3.types import Task as Task03
from a2a.types import a2a_pb2 as pb
from google.protobuf import json_format

from coxswain.orchestrator.v1 import artifact_pb2
from coxswain.orchestrator.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from services.orchestrator.artifact_contents import new_artifact, sha256_of
from services.orchestrator.messages.artifacts import stored_to_proto
from services.orchestrator.repositories.artifacts import ArtifactRepository
from services.orchestrator.repositories.executions import read_execution
from tests.integration.orchestrator import test_a2a_03
from tests.integration.orchestrator.a2a_support import agent, finish, publish, send
from tests.integration.orchestrator.support import Worker
from tests.support.harness import ALICE, Harness
from tests.support.webhook_receiver import WebhookReceiver

RESUME = {"a2a_extensions": "https://example.com/coxswain/a2a/resume/v1", "x_after_sequence": "0"}
FULL = 1024 * 1024


async def store(
    worker: Worker, execution_id: str, name: str, content: bytes, revision: int = 1, call_id: str = "call"
) -> None:
    """Store a file with its event, as a worker host does."""
    execution = await read_execution(worker.database, "sales", execution_id)
    assert execution is not None
    sha256 = await sha256_of(content)
    file = new_artifact(execution, 0, "read", name, len(content), sha256, revision=revision, call_id=call_id)
    async with worker.database.write() as connection:
        await ArtifactRepository(connection, execution_id).put(file, content)
    await worker.emit(execution_id, stored_to_proto(file))


def held(artifact: pb.Artifact) -> tuple[str, Any]:
    """Return the id of an artifact, and what it holds: bytes, a text, or what is said of a file."""
    (part,) = artifact.parts
    kind = part.WhichOneof("content")
    return artifact.artifact_id, json_format.MessageToDict(part.data) if kind == "data" else getattr(part, str(kind))


async def test_files_of_tools_are_artifacts_with_their_content_or_with_how_to_get_it(
    harness: Harness, worker: Worker
) -> None:
    await publish(harness)
    stub, former = agent(harness), test_a2a_03.client_of(harness)
    async with WebhookReceiver() as receiver:
        config = pb.TaskPushNotificationConfig(url=f"{receiver.url}/new")
        configuration = {"return_immediately": True, "task_push_notification_config": config}
        task = await send(stub, configuration=configuration)
        push = old.PushNotificationConfig(url=f"{receiver.url}/old")
        await former.CreateTaskPushNotificationConfig(
            old.CreateTaskPushNotificationConfigRequest(
                parent=f"tasks/{task.id}", config=old.TaskPushNotificationConfig(push_notification_config=push)
            )
        )
        live = stub.SubscribeToTask(pb.SubscribeToTaskRequest(id=task.id))
        await live.read()
        await worker.claim(task.id)
        await store(worker, task.id, "a/notes.md", b"one")
        # What is replaced is not kept.
        assert held((await live.read()).artifact_update.artifact) == ("file/a/notes.md", b"one")
        await store(worker, task.id, "a/notes.md", b"two", 2)
        for name, size in (("b.bin", FULL), ("c.bin", FULL + 1), ("d.bin", FULL), ("e.txt", 0)):
            await store(worker, task.id, name, b"x" * size)
        await store(worker, task.id, "result.md", b"A brief.", call_id="")
        await finish(worker, task.id, "A brief.")
        told = [one async for one in live]
        large = {
            "name": "c.bin",
            "media_type": "application/octet-stream",
            "size_bytes": FULL + 1.0,
            "sha256": await sha256_of(b"x" * (FULL + 1)),
            "download": {
                "method": "coxswain.orchestrator.v1.ArtifactService/DownloadArtifact",
                "request": {"execution_id": task.id, "name": "c.bin", "revision": 1.0},
            },
        }
        of_files = [
            ("file/a/notes.md", b"two"),
            ("file/b.bin", b"x" * FULL),
            ("file/c.bin", large),
            ("file/d.bin", b"x" * FULL),
            ("file/e.txt", b""),
        ]
        assert [held(one.artifact_update.artifact) for one in told[:-1]] == [*of_files, ("result", "A brief.")]
        assert not any(one.artifact_update.append for one in told[:-1])
        part = told[0].artifact_update.artifact.parts[0]
        assert (part.filename, part.media_type) == ("a/notes.md", "text/markdown")

        # A later reader is told of the same updates, and of what was replaced that it was there.
        late = [one async for one in agent(harness, **RESUME).SubscribeToTask(pb.SubscribeToTaskRequest(id=task.id))]
        assert late[-len(told) :] == told
        gone_id, gone = held(late[-len(told) - 1].artifact_update.artifact)
        assert (gone_id, gone["size_bytes"], gone["download"]["request"]["revision"]) == ("file/a/notes.md", 3, 1)

        # An answer holds 2 MiB; the rest is described.
        read = await stub.GetTask(pb.GetTaskRequest(id=task.id))
        shown = dict(map(held, read.artifacts))
        assert list(shown) == ["result", *[name for name, _ in of_files]]
        assert {name: shown[name] for name, _ in of_files if name != "file/d.bin"} == {
            name: content for name, content in of_files if name != "file/d.bin"
        }
        request = json_format.ParseDict(
            shown["file/d.bin"]["download"]["request"], artifact_pb2.DownloadArtifactRequest()
        )
        pieces = ArtifactServiceStub(harness.channel(ALICE)).DownloadArtifact(request)
        assert b"".join([piece.content async for piece in pieces]) == b"x" * FULL
        read_03 = await former.GetTask(old.GetTaskRequest(name=f"tasks/{task.id}"))
        files_03 = [one.parts[0].file for one in read_03.artifacts if one.parts[0].HasField("file")]
        assert [(one.name, one.file_with_bytes) for one in files_03] == [
            ("a/notes.md", b"two"),
            ("b.bin", b"x" * FULL),
            ("e.txt", b""),
        ]

        # Lists describe files, and leave them out unless they are asked for.
        (listed,) = (await stub.ListTasks(pb.ListTasksRequest(include_artifacts=True))).tasks
        described = dict(map(held, listed.artifacts))
        assert (list(described), described["file/e.txt"]["size_bytes"]) == (list(shown), 0)
        assert not (await stub.ListTasks(pb.ListTasksRequest())).tasks[0].artifacts

        posted = await receiver.has(len(told) + 1, "/new")
        changes = [json_format.ParseDict(each.body, pb.StreamResponse()) for each in posted]
        assert changes[-len(told) :] == told
        (ended,) = [Task03.model_validate(json.loads(each.raw)) for each in await receiver.has(1, "/old")]
        # What is posted of a task has 1 MiB: files are described where they make it larger.
        assert [one.artifact_id for one in ended.artifacts or []] == list(shown)
        assert "contents" in (ended.metadata or {})["coxswain/left_out"]
        assert not [part for one in ended.artifacts or [] for part in one.parts if part.root.kind == "file"]
