"""Files that tools have made, until a host takes them, in SQL."""

from collections.abc import Collection
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.database import Database
from services.orchestrator.domain.artifact import CHUNK_BYTES, ArtifactUpload
from services.orchestrator.tables import artifact_chunks, artifact_upload_chunks, artifact_uploads, executions


class ArtifactUploadRepository:
    """Files on their way from the tool gateway to executions."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def insert(self, upload: ArtifactUpload, content: bytes) -> bool:
        """Store a file; return whether its group has the execution."""
        wanted = select(executions.c.id).where(
            executions.c.id == upload.execution_id, executions.c.group_id == upload.group_id
        )
        if (await self._connection.execute(wanted)).first() is None:
            return False
        values = {field.name: getattr(upload, field.name) for field in fields(upload)}
        await self._connection.execute(insert(artifact_uploads).values(**values))
        chunks = [
            {"upload_id": upload.id, "position": position, "content": content[start : start + CHUNK_BYTES]}
            for position, start in enumerate(range(0, len(content), CHUNK_BYTES))
        ]
        if chunks:
            await self._connection.execute(insert(artifact_upload_chunks), chunks)
        return True

    async def move_content(self, upload_id: str, artifact_id: str) -> None:
        """Give the content of a file to an artifact, and forget the file."""
        of_upload = select(
            literal(artifact_id), artifact_upload_chunks.c.position, artifact_upload_chunks.c.content
        ).where(artifact_upload_chunks.c.upload_id == upload_id)
        names = [column.name for column in artifact_chunks.c]
        await self._connection.execute(insert(artifact_chunks).from_select(names, of_upload))
        await self.delete([upload_id])

    async def drop_content(self, upload_id: str) -> None:
        """Forget the content of a file and its hash; what else is known of it goes in its time."""
        await self._connection.execute(
            delete(artifact_upload_chunks).where(artifact_upload_chunks.c.upload_id == upload_id)
        )
        await self._connection.execute(
            update(artifact_uploads).where(artifact_uploads.c.id == upload_id).values(sha256="")
        )

    async def delete(self, upload_ids: Collection[str]) -> None:
        """Forget files."""
        await self._connection.execute(delete(artifact_uploads).where(artifact_uploads.c.id.in_(upload_ids)))

    async def delete_old(self, before: datetime, limit: int) -> int:
        """Forget up to `limit` files that nobody has taken since a time; return how many."""
        old = select(artifact_uploads.c.id).where(artifact_uploads.c.created_at < before).limit(limit)
        ids = list((await self._connection.execute(old)).scalars())
        await self.delete(ids)
        return len(ids)


async def read_uploads(database: Database, execution_id: str, ids: Collection[str]) -> list[ArtifactUpload]:
    """Return those of some files that are there for an execution, oldest first. One statement needs no transaction."""
    columns: list[Any] = [artifact_uploads.c[field.name] for field in fields(ArtifactUpload)]
    query = select(*columns).where(artifact_uploads.c.execution_id == execution_id, artifact_uploads.c.id.in_(ids))
    return [ArtifactUpload(**row) for row in await database.fetch(query.order_by(artifact_uploads.c.id))]
