"""Files of executions in SQL."""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import Select, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.common.ids import new_id
from services.orchestrator.domain.artifact import CHUNK_BYTES, Artifact
from services.orchestrator.tables import artifact_chunks, artifacts

_COLUMNS = [artifacts.c[field.name] for field in fields(Artifact)]


class ArtifactRepository:
    """The files of one execution."""

    def __init__(self, connection: AsyncConnection, execution_id: str) -> None:
        self._connection = connection
        self._execution_id = execution_id

    async def page(self, after: str | None, limit: int, *, task_name: str, prefix: str) -> list[Artifact]:
        """Return files in the order of their names, each at its newest revision; what is empty leaves all in."""
        query = _of(self._execution_id).where(artifacts.c.is_current)
        if after is not None:
            query = query.where(artifacts.c.name > after)
        if task_name:
            query = query.where(artifacts.c.task_name == task_name)
        if prefix:
            # LIKE does not tell upper from lower case on SQLite; no name has the last character there is.
            query = query.where(artifacts.c.name.between(prefix, f"{prefix}{chr(sys.maxunicode)}"))
        return await self._read(query.order_by(artifacts.c.name).limit(limit))

    async def results(self, task_indices: Collection[int]) -> dict[int, str]:
        """Return the names of the files that hold results of tasks, by the index of the task."""
        query = _of(self._execution_id).where(artifacts.c.call_id == "", artifacts.c.task_index.in_(task_indices))
        return {one.task_index: one.name for one in await self._read(query.order_by(artifacts.c.created_at))}

    async def put(self, artifact: Artifact, content: bytes) -> None:
        """Store a file's next revision; what the same task has stored under that name goes."""
        of_name = (artifacts.c.execution_id == self._execution_id, artifacts.c.name_key == artifact.key)
        await self._connection.execute(delete(artifacts).where(*of_name, artifacts.c.task_index == artifact.task_index))
        await self._connection.execute(update(artifacts).where(*of_name).values(is_current=False))
        await self._insert([artifact])
        chunks = [
            {"artifact_id": artifact.id, "position": position, "content": content[start : start + CHUNK_BYTES]}
            for position, start in enumerate(range(0, len(content), CHUNK_BYTES))
        ]
        if chunks:
            await self._connection.execute(insert(artifact_chunks), chunks)

    async def contents(self, files: Collection[Artifact]) -> dict[str, bytes]:
        """Return the contents of files, by their ids. Of one that was replaced there is nothing, or less."""
        query = select(artifact_chunks).where(artifact_chunks.c.artifact_id.in_([file.id for file in files]))
        found = {file.id: b"" for file in files}
        chunks = query.order_by(artifact_chunks.c.artifact_id, artifact_chunks.c.position)
        for row in await self._connection.execute(chunks):
            found[row.artifact_id] += row.content
        return found

    async def all(self) -> list[Artifact]:
        """Return all revisions that are kept, the oldest of each name first."""
        return await self._read(_of(self._execution_id).order_by(artifacts.c.name_key, artifacts.c.revision))

    async def copy(self, originals: Sequence[Artifact], indices: Mapping[int, int]) -> None:
        """Store files of another execution as this one's; `indices` maps that of a task there to the one it has here.

        `originals` are in the order of `all`, and this execution has no files yet.
        """
        if not originals:
            return
        await self._insert(
            [
                Artifact(
                    **{
                        **_values(one),
                        "id": new_id(),
                        "execution_id": self._execution_id,
                        "task_index": indices[one.task_index],
                    }
                )
                for one in originals
            ]
        )
        copy, original = artifacts.alias(), artifacts.alias()
        contents = (
            select(copy.c.id, artifact_chunks.c.position, artifact_chunks.c.content)
            .join(
                original,
                (original.c.name_key == copy.c.name_key) & (original.c.revision == copy.c.revision),
            )
            .join(artifact_chunks, artifact_chunks.c.artifact_id == original.c.id)
            .where(copy.c.execution_id == self._execution_id, original.c.execution_id == originals[0].execution_id)
        )
        names = [column.name for column in artifact_chunks.c]
        await self._connection.execute(insert(artifact_chunks).from_select(names, contents))

    async def _insert(self, stored: Sequence[Artifact]) -> None:
        newest = {one.key: one.revision for one in stored}
        await self._connection.execute(
            insert(artifacts),
            [{**_values(one), "name_key": one.key, "is_current": one.revision == newest[one.key]} for one in stored],
        )

    async def _read(self, query: Select[Any]) -> list[Artifact]:
        return [Artifact(*row) for row in await self._connection.execute(query)]


async def read_artifacts(database: Database, execution_id: str) -> list[Artifact]:
    """Return all revisions of an execution's files that are kept, oldest first. One statement needs no transaction."""
    query = _of(execution_id).order_by(artifacts.c.revision)
    return [Artifact(**row) for row in await database.fetch(query)]


async def read_artifact(
    database: Database, group_id: str, execution_id: str, name: str, revision: int = 0
) -> Artifact | None:
    """Return a file of a group's execution, at its newest revision (0) or another one. See `read_artifacts`."""
    query = _of(execution_id).where(artifacts.c.group_id == group_id, artifacts.c.name == name)
    query = query.where(artifacts.c.revision == revision) if revision else query.where(artifacts.c.is_current)
    rows = await database.fetch(query)
    return Artifact(**rows[0]) if rows else None


async def read_chunk(database: Database, artifact_id: str, position: int) -> bytes | None:
    """Return `CHUNK_BYTES` of a file; None when it has been replaced or deleted. See `read_artifacts`."""
    rows = await database.fetch(
        select(artifact_chunks.c.content).where(
            artifact_chunks.c.artifact_id == artifact_id, artifact_chunks.c.position == position
        )
    )
    return bytes(rows[0]["content"]) if rows else None


async def read_group_bytes(database: Database, group_id: str) -> int:
    """Return how many bytes the files of a group have. See `read_artifacts`."""
    total = select(func.coalesce(func.sum(artifacts.c.size), 0).label("total")).where(artifacts.c.group_id == group_id)
    return int((await database.fetch(total))[0]["total"])


def _of(execution_id: str) -> Select[Any]:
    return select(*_COLUMNS).where(artifacts.c.execution_id == execution_id)


def _values(artifact: Artifact) -> dict[str, Any]:
    return {field.name: getattr(artifact, field.name) for field in fields(Artifact)}
