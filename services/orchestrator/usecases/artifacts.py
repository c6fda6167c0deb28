"""Use cases of ArtifactService."""

import unicodedata
from collections.abc import AsyncIterator

from services.common.db.database import Database
from services.common.errors import Aborted, InvalidArgument, NotFound
from services.common.identity.principal import Principal
from services.common.paging import Page, Pager
from services.orchestrator.domain.artifact import CHUNK_BYTES, Artifact
from services.orchestrator.repositories.artifacts import ArtifactRepository, read_artifact, read_chunk
from services.orchestrator.usecases.execution_starter import existing_execution

_ARTIFACTS = Pager("artifacts", portion=200)


class Artifacts:
    """Shows the files of executions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, principal: Principal, execution_id: str, size: int, token: str, *, task_name: str, prefix: str
    ) -> Page[Artifact]:
        """Return a page of the files of an execution, in the order of their names.

        Raises:
            NotFound: the group does not have this execution.
            InvalidArgument: INVALID_PAGE_TOKEN.
        """
        async with self._database.read() as connection:
            await existing_execution(connection, principal.group_id, execution_id)
            prefix = unicodedata.normalize("NFC", prefix)
            files = ArtifactRepository(connection, execution_id)
            return await _ARTIFACTS.page(
                size,
                token,
                {"execution": execution_id, "task": task_name, "prefix": prefix},
                lambda after, limit: files.page(after[0] if after else None, limit, task_name=task_name, prefix=prefix),
                lambda artifact: [artifact.name],
            )

    async def get(self, principal: Principal, execution_id: str, name: str, revision: int) -> Artifact:
        """Return a file without its content; `revision` 0 means the newest.

        Raises:
            NotFound: the execution does not have this file, or not at this revision.
        """
        found = await read_artifact(
            self._database, principal.group_id, execution_id, unicodedata.normalize("NFC", name), revision
        )
        if found is None:
            of_revision = f"revision {revision} of the artifact" if revision else "artifact"
            raise NotFound.of(of_revision, name)
        return found

    async def content(self, artifact: Artifact, offset: int) -> AsyncIterator[bytes]:
        """Yield the content of a file from a byte on, in pieces.

        Raises:
            InvalidArgument: the file is shorter.
            Aborted: REVISION_MISMATCH, the file has got another content meanwhile.
            NotFound: its execution was deleted meanwhile.
        """
        if offset > artifact.size:
            raise InvalidArgument.field("offset", f"may be up to {artifact.size}, the size of the file")
        for position in range(offset // CHUNK_BYTES, -(-artifact.size // CHUNK_BYTES)):
            chunk = await read_chunk(self._database, artifact.id, position)
            if chunk is None:
                newest = await read_artifact(self._database, artifact.group_id, artifact.execution_id, artifact.name)
                if newest is None:
                    raise NotFound.of("artifact", artifact.name)
                raise Aborted.revision("artifact", artifact.name, artifact.revision, newest.revision)
            yield chunk[max(0, offset - position * CHUNK_BYTES) :]
