"""The files of one execution, as the host that has its claim stores and reads them."""

import asyncio
import codecs
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from coxswain.orchestrator.v1 import execution_pb2
from services.common.identity.group_limits import GroupLimits
from services.orchestrator.artifact_contents import new_artifact, sha256_of
from services.orchestrator.domain.artifact import (
    CHUNK_BYTES,
    Artifact,
    ArtifactLimits,
    ArtifactUpload,
    FileNames,
    conflict_text,
    numbered,
)
from services.orchestrator.domain.execution import PLAN_INDEX, Execution
from services.orchestrator.messages.artifacts import stored_to_proto
from services.orchestrator.worker.host.fenced_write import FencedWrite
from services.orchestrator.worker.host.peer_retry import retry_while_absent
from services.orchestrator.worker.host.recorder import Change, Recorder, TaskRef
from services.orchestrator.worker.host.run_store import RunStore

T = TypeVar("T")

_ATTEMPTS = 3


class FileRefused(Exception):
    """A file cannot be stored. The message says why and what to do."""

    def __init__(self, reason: str, message: str) -> None:
        """`reason` is an ErrorReason without its prefix."""
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that is to be stored: the event and the change are committed together."""

    artifact: Artifact
    event: execution_pb2.ArtifactStored
    change: Change


@dataclass(frozen=True, slots=True)
class FilePage:
    """A part of a text file."""

    artifact: Artifact
    text: str
    start: int
    """In characters."""
    more: bool
    """Whether the file goes on after it."""


class _Replaced(Exception):
    """A file got another content while it was read."""


class ExecutionFiles:
    """The files of one execution. Nobody else stores any as long as this host has the claim."""

    def __init__(
        self,
        store: RunStore,
        execution: Execution,
        recorder: Recorder,
        *,
        limits: ArtifactLimits,
        retry_seconds: float,
        limits_of_group: Callable[[], Awaitable[GroupLimits]],
    ) -> None:
        """An absent database, or auth, is asked again for `retry_seconds`.

        `limits_of_group` returns what the operator allows the group at present, beside `limits`.
        """
        self._store = store
        self._installation_limits = limits
        self._limits_of_group = limits_of_group
        self._retry_seconds = retry_seconds
        self._execution = execution
        self._recorder = recorder
        self._inventory: _Inventory | None = None
        self._reading = asyncio.Lock()

    async def store(
        self, task: TaskRef, name: str, content: bytes, *, call_id: str, media_type: str = ""
    ) -> tuple[Artifact, bool]:
        """Store a file, and return it and whether that has changed anything.

        Raises:
            FileRefused, CredentialExpired, CoxswainError: see `prepare`.
            Fenced: another host has the execution.
        """
        new = await self.prepare(task, name, content, call_id=call_id, media_type=media_type)
        if isinstance(new, Artifact):
            return new, False
        await self._recorder.commit([(task, new.event)], new.change)
        return new.artifact, True

    async def prepare(
        self, task: TaskRef, name: str, content: bytes, *, call_id: str = "", media_type: str = ""
    ) -> NewFile | Artifact:
        """Return what stores a file, or the file that has this content already. It has to be committed.

        `name` is one that `file_name` has returned; without a `call_id` the content is the task's result.

        Raises:
            FileRefused: a limit is reached, or another file's name is in the way.
            CredentialExpired: what the group may store is not known yet, and the user's credential has expired.
            CoxswainError: the same, and the grant was revoked, or auth does not answer.
        """
        files, sha256 = await self._files(), await sha256_of(content)
        limits = await self._limits()
        group_bytes = await self._group_bytes() if limits.group_bytes else 0
        index = PLAN_INDEX if task.task_index is None else task.task_index
        # Nothing is awaited from here on: two calls at once do not take the same revision.
        before = files.newest.get(name)
        if before is not None and (before.sha256, before.task_index, before.is_result) == (sha256, index, not call_id):
            return before
        in_the_way = files.names.conflicting(name)
        if in_the_way is not None:
            raise FileRefused(
                "ARTIFACT_NAME_CONFLICT",
                conflict_text(name, in_the_way),
            )
        files.check(limits, name, index, len(content), group_bytes)
        artifact = new_artifact(
            self._execution,
            index,
            task.task_name,
            name,
            len(content),
            sha256,
            revision=1 if before is None else before.revision + 1,
            call_id=call_id,
            media_type=media_type,
        )
        files.add(artifact)

        async def put(write: FencedWrite) -> None:
            await write.artifacts.put(artifact, content)

        return NewFile(artifact, stored_to_proto(artifact), put)

    async def take_over(self, task: TaskRef, call_id: str, upload_ids: Collection[str]) -> tuple[list[Artifact], str]:
        """Store the files that a tool call has made; return them and why others were not stored.

        One that is asked again for the same call returns what was stored for it.

        Raises:
            Fenced: another host has the execution.
            CredentialExpired, CoxswainError: see `prepare`.
        """
        files = await self._files()
        stored = files.of_call(call_id)
        uploads = await self._read(partial(self._store.uploads, self._execution.id, upload_ids))
        missing = len(upload_ids) - len(stored) - len(uploads)
        gone = f"{missing} of {len(upload_ids)} files are not there any more" if missing > 0 else ""
        refused = ""
        for upload in uploads:
            limits = await self._limits()
            group_bytes = await self._group_bytes() if limits.group_bytes else 0
            try:
                new = self._adopted(files, task, call_id, upload, limits, group_bytes)
            except FileRefused as error:
                refused = str(error)
                if upload.sha256:
                    # The content of what is refused would count in no limit.
                    await self._recorder.commit([], partial(_drop_content, upload))
                continue
            await self._recorder.commit([(task, new.event)], new.change)
            stored.append(new.artifact)
        return stored, "; ".join(filter(None, (gone, refused)))

    def _adopted(
        self,
        files: "_Inventory",
        task: TaskRef,
        call_id: str,
        upload: ArtifactUpload,
        limits: ArtifactLimits,
        group_bytes: int,
    ) -> NewFile:
        index = PLAN_INDEX if task.task_index is None else task.task_index
        name, number = upload.name, 1
        # What another call has made is not replaced.
        while name in files.newest or files.names.conflicting(name) is not None:
            number += 1
            name = numbered(upload.name, number)
        files.check(limits, name, index, upload.size, group_bytes)
        if not upload.sha256:
            raise FileRefused("ARTIFACT_LIMIT_REACHED", "a limit of the files' bytes or number was reached before")
        artifact = new_artifact(
            self._execution,
            index,
            task.task_name,
            name,
            upload.size,
            upload.sha256,
            revision=1,
            call_id=call_id,
            media_type=upload.media_type,
        )
        files.add(artifact)

        async def put(write: FencedWrite) -> None:
            await write.artifacts.put(artifact, b"")
            await write.uploads.move_content(upload.id, artifact.id)

        return NewFile(artifact, stored_to_proto(artifact), put)

    async def list(self, prefix: str = "") -> list[Artifact]:
        """Return the files whose names begin with a text, in the order of their names."""
        newest = (await self._files()).newest
        return [newest[name] for name in sorted(newest) if name.startswith(prefix)]

    async def read_text(self, name: str, start: int, length: int) -> FilePage | None:
        """Return up to `length` characters of a text file from a position on; None when there is no such file.

        Raises:
            UnicodeDecodeError: it is no text in UTF-8.
        """
        for _ in range(_ATTEMPTS):
            artifact = (await self._files()).newest.get(name)
            if artifact is None:
                break
            try:
                return await self._page(artifact, start, length)
            except _Replaced:
                continue
        return None

    async def _page(self, artifact: Artifact, start: int, length: int) -> FilePage:
        decoder = codecs.getincrementaldecoder("utf-8")()
        page, position = "", 0
        async for chunk, last in self._chunks(artifact):
            text = decoder.decode(chunk, final=last)
            page += text[max(0, start - position) :][: length + 1 - len(page)]
            position += len(text)
            if len(page) > length:
                break
        return FilePage(artifact, page[:length], start, len(page) > length)

    async def _chunks(self, artifact: Artifact) -> AsyncIterator[tuple[bytes, bool]]:
        """Yield the content of a file in pieces, and whether each is the last one."""
        count = -(-artifact.size // CHUNK_BYTES)
        for position in range(count):
            chunk = await self._read(partial(self._store.file_chunk, artifact.id, position))
            if chunk is None:
                raise _Replaced
            yield chunk, position + 1 == count

    async def _files(self) -> "_Inventory":
        async with self._reading:
            if self._inventory is None:
                stored = await self._read(partial(self._store.files, self._execution.id))
                self._inventory = _Inventory(stored)
            return self._inventory

    async def _read(self, query: Callable[[], Awaitable[T]]) -> T:
        return await retry_while_absent(query, self._retry_seconds)

    async def _limits(self) -> ArtifactLimits:
        group = await self._read(self._limits_of_group)
        return self._installation_limits.within(group.max_stored_bytes)

    async def _group_bytes(self) -> int:
        return await self._read(partial(self._store.group_file_bytes, self._execution.group_id))


async def _drop_content(upload: ArtifactUpload, write: FencedWrite) -> None:
    await write.uploads.drop_content(upload.id)


class _Inventory:
    """What files an execution has."""

    def __init__(self, stored: Iterable[Artifact]) -> None:
        """`stored` are all revisions that are kept, the newest one of each name last."""
        self.newest: dict[str, Artifact] = {}
        self.names = FileNames()
        self._sizes: dict[tuple[str, int], int] = {}
        self._of_calls: defaultdict[str, list[Artifact]] = defaultdict(list)
        for artifact in stored:
            self.add(artifact)

    def add(self, artifact: Artifact) -> None:
        """Add a file's next revision; of those before it, the one of the same task goes."""
        if artifact.name not in self.newest:
            self.names.add(artifact.name)
        self.newest[artifact.name] = artifact
        self._of_calls[artifact.call_id].append(artifact)
        self._sizes[artifact.name, artifact.task_index] = artifact.size

    def of_call(self, call_id: str) -> list[Artifact]:
        """Return what a call has stored, also what other content has replaced since."""
        return list(self._of_calls.get(call_id, ()))

    def check(self, limits: ArtifactLimits, name: str, index: int, size: int, group_bytes: int) -> None:
        """Raise FileRefused when a content of `size` bytes is more than may be kept."""
        replaced = self._sizes.get((name, index), 0)
        files = len(self.newest) + (name not in self.newest)
        for limit, used, what, remedy in (
            (limits.file_bytes, size, "bytes of a file", "store less, or several files"),
            (limits.execution_files, files, "files of an execution", "put more into one file"),
            (
                limits.execution_bytes,
                sum(self._sizes.values()) - replaced + size,
                "bytes of an execution's files",
                "store less",
            ),
            (
                limits.group_bytes,
                group_bytes - replaced + size,
                "bytes of all files of a group",
                "delete executions that are not needed any more",
            ),
        ):
            if limit and used > limit:
                raise FileRefused(
                    "ARTIFACT_LIMIT_REACHED",
                    f"the limit of {limit:,} {what} is reached, this would make {used:,}; {remedy}, or have the "
                    "operator raise the limit",
                )
