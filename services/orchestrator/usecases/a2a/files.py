"""Files that the tools of an execution have stored, as artifacts of its task."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from coxswain.orchestrator.v1 import execution_pb2
from services.common.db.database import Database
from services.orchestrator.domain.artifact import CHUNK_BYTES, Artifact
from services.orchestrator.repositories.artifacts import ArtifactRepository, read_artifact, read_chunk

MAX_CONTENT_BYTES = 1024 * 1024
"""Of a file whose content is told; larger ones are described."""
_ANSWER_BYTES = 2 * 1024 * 1024
"""Of what an answer tells, beyond which it describes files."""
_MOST_FILES = 200


@dataclass(frozen=True, slots=True)
class FileArtifact:
    """A file of an execution, at one revision."""

    execution_id: str
    name: str
    media_type: str
    size: int
    """In bytes."""
    sha256: str
    revision: int
    content: bytes | None = None
    """None: it is not told, and is downloaded."""

    @property
    def told_bytes(self) -> int:
        """The bytes of its content that are told."""
        return len(self.content or b"")


async def read_files(
    connection: AsyncConnection, execution_id: str, used_bytes: int, *, contents: bool
) -> tuple[Sequence[FileArtifact], bool]:
    """Return files of an execution in the order of their names, and whether there are more.

    With `contents`, those of small files are read, as many as an answer can hold that has `used_bytes` already.
    """
    files = ArtifactRepository(connection, execution_id)
    found = await files.page(None, _MOST_FILES + 1, task_name="", prefix="")
    # Results with a file are artifacts anyway.
    shown = [file for file in found[:_MOST_FILES] if not file.is_result]
    chosen = []
    for file in shown if contents else ():
        if file.size <= MAX_CONTENT_BYTES and used_bytes + file.size <= _ANSWER_BYTES:
            chosen.append(file)
            used_bytes += file.size
    read = await files.contents(chosen) if chosen else {}
    return [_of(file, read.get(file.id)) for file in shown], len(found) > _MOST_FILES


async def read_stored(
    database: Database, group_id: str, execution_id: str, stored: execution_pb2.ArtifactStored
) -> FileArtifact:
    """Return the file that an event tells of; without its content where that is large, or was replaced since."""
    described = FileArtifact(
        execution_id, stored.name, stored.media_type, stored.size_bytes, stored.sha256, stored.revision
    )
    if stored.size_bytes > MAX_CONTENT_BYTES:
        return described
    file = await read_artifact(database, group_id, execution_id, stored.name, stored.revision)
    if file is None:
        return described
    chunks = [await read_chunk(database, file.id, position) for position in range(-(-file.size // CHUNK_BYTES))]
    content = b"".join(chunk for chunk in chunks if chunk is not None)
    return _of(file, content)


def _of(file: Artifact, content: bytes | None) -> FileArtifact:
    # One that is replaced meanwhile has fewer bytes.
    whole = content if content is not None and len(content) == file.size else None
    return FileArtifact(file.execution_id, file.name, file.media_type, file.size, file.sha256, file.revision, whole)
