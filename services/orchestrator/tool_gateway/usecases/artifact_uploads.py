"""Files that tools have made: kept here until the host that made the call takes them."""

import asyncio
import re
from datetime import timedelta

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import FailedPrecondition, ResourceExhausted
from services.common.ids import new_id
from services.orchestrator.artifact_contents import sha256_of
from services.orchestrator.domain.artifact import BYTES, ArtifactUpload, safe_file_name
from services.orchestrator.repositories.artifact_uploads import ArtifactUploadRepository
from services.orchestrator.tool_gateway.ports import StoredFile, ToolCallRequest

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_MOST_FILES = 32
_PORTION = 100


class ArtifactUploads:
    """Stores files of tools. See `FileKeeper`."""

    def __init__(self, database: Database, *, max_bytes: int) -> None:
        """`max_bytes` bounds one file; 0 means no limit."""
        self._database = database
        self._max_bytes = max_bytes

    async def keep(self, request: ToolCallRequest, files: tuple[StoredFile, ...]) -> list[str]:
        """See `FileKeeper`."""
        if not request.execution_id:
            raise FailedPrecondition("only executions keep files", reason="EXECUTION_STATE")
        if len(files) > _MOST_FILES:
            raise ResourceExhausted(
                f"a call may make {_MOST_FILES} files, and this one made {len(files)}", reason="ARTIFACT_LIMIT_REACHED"
            )
        for file in files:
            if self._max_bytes and len(file.content) > self._max_bytes:
                raise ResourceExhausted(
                    f"a file may have {self._max_bytes:,} bytes, and one has {len(file.content):,}",
                    reason="ARTIFACT_LIMIT_REACHED",
                )
        uploads = [await self._described(request, file) for file in files]
        async with self._database.write() as connection:
            repository = ArtifactUploadRepository(connection)
            for upload, file in zip(uploads, files, strict=True):
                if not await repository.insert(upload, file.content):
                    raise FailedPrecondition("the execution is not there any more", reason="EXECUTION_STATE")
        return [upload.id for upload in uploads]

    async def forget(self, after_seconds: float) -> None:
        """Forget files that no host has taken."""
        before = utc_now() - timedelta(seconds=after_seconds)
        while True:
            async with self._database.write() as connection:
                if await ArtifactUploadRepository(connection).delete_old(before, _PORTION) < _PORTION:
                    return
            await asyncio.sleep(0)

    async def _described(self, request: ToolCallRequest, file: StoredFile) -> ArtifactUpload:
        return ArtifactUpload(
            id=new_id(),
            execution_id=request.execution_id,
            group_id=request.principal.group_id,
            name=safe_file_name(file.name),
            media_type=file.media_type.lower() if _MEDIA_TYPE.fullmatch(file.media_type) else BYTES,
            size=len(file.content),
            sha256=await sha256_of(file.content),
            created_at=utc_now(),
        )
