"""Records that are parts of documents: none is there without its document, whichever way it was saved or removed."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.background import BackgroundTasks
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import Aborted, CoxswainError, FailedPrecondition, FieldViolation
from services.common.grpc.call import outlast_caller
from services.common.identity.principal import Principal
from services.memory.domain.documents import (
    SavedDocument,
    brought_back,
    is_part_of,
    named_documents,
    part_id,
    part_ids,
)
from services.memory.domain.filters import EVERYTHING
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import Document, Record
from services.memory.domain.subjects import Ties
from services.memory.filters import parts_of
from services.memory.repositories.documents import DocumentRepository, DocumentRow, DocumentState
from services.memory.stores.base import MemoryStore, Switch

logger = structlog.get_logger(__name__)

ROWS_AT_ONCE = 500
"""Rows of documents that are read at once."""
MOST_ATTEMPTS = 5
"""Times that a document is tried which others save at the same moment."""


class DocumentParts:
    """What calls that know nothing of documents do to their parts."""

    def __init__(self, database: Database, background: BackgroundTasks) -> None:
        self._database = database
        self._background = background

    async def named(
        self, principal: Principal, store: MemoryStore, records: Sequence[Record]
    ) -> Sequence[SavedDocument]:
        """Return the documents whose parts are among records that are to be saved; see `note_saved`.

        Parts get the time at which their document expires: one that stayed longer would be there without it.

        Raises:
            FailedPrecondition: a record names a document that is there, and is none of its parts.
        """
        ids = named_documents(records)
        if not ids:
            return ()
        now = utc_now()
        async with self._database.read() as connection:
            known = await DocumentRepository(connection, principal.group_id, store.backend_id).some(ids, now)
        named: dict[str, SavedDocument] = {}
        for position, record in enumerate(records):
            body = record.body
            if not isinstance(body, Document) or not body.parent_document_id:
                continue
            document = known.get(body.parent_document_id)
            if document is None:
                document = brought_back(record, principal.subject, now)
                if document is None or not is_part_of(document, record):
                    continue
                known[document.id] = document
            elif not is_part_of(document, record):
                raise _no_part(f"records[{position}].document.parent_document_id", document)
            record.expires_at = document.expires_at
            named[document.id] = document
        return list(named.values())

    @contextlib.asynccontextmanager
    async def noting(
        self, key: NamespaceKey, store: MemoryStore, named: Sequence[SavedDocument], records: Sequence[Record]
    ) -> AsyncIterator[Switch | None]:
        """Note the documents whose parts are saved within; see `note_saved`.

        Yield what the save has to call in its transaction, where that is the service's own. Elsewhere the documents are
        expected before: of a process that is killed in between nothing stays that no document names. Parts may be
        stored too when the caller goes away meanwhile: then they are noted without it.

        Raises:
            Aborted: another call has saved one of the documents meanwhile.
        """
        if not named:
            yield None
            return
        if store.removes_at_once:
            yield self._noting_within(key, store, named)
            return
        began = utc_now()
        await self._expect(key, store, named, began)
        try:
            yield None
            await self.note_saved(key, store, named, records, began)
        except asyncio.CancelledError:
            # An index that shows writes late would keep documents of which nothing was stored.
            if store.compares_revisions:
                self._background.start(self._note_without_caller(key, store, named, records, began))
            raise

    def _noting_within(self, key: NamespaceKey, store: MemoryStore, named: Sequence[SavedDocument]) -> Switch:
        async def switch(connection: AsyncConnection | None) -> None:
            assert connection is not None
            repository = DocumentRepository(connection, key.group_id, store.backend_id)
            for document in _in_order(named):
                if await repository.bring(replace(document, fingerprint=""), utc_now(), at_once=True) is None:
                    raise saved_meanwhile(document.id)

        return switch

    async def _expect(
        self, key: NamespaceKey, store: MemoryStore, named: Sequence[SavedDocument], now: datetime
    ) -> None:
        async with self._database.write() as connection:
            repository = DocumentRepository(connection, key.group_id, store.backend_id)
            for document in _in_order(named):
                if not await repository.expect(replace(document, fingerprint=""), now):
                    raise saved_meanwhile(document.id)

    async def _note_without_caller(
        self,
        key: NamespaceKey,
        store: MemoryStore,
        named: Sequence[SavedDocument],
        records: Sequence[Record],
        began: datetime,
    ) -> None:
        outlast_caller()
        try:
            await self.note_saved(key, store, named, records, began)
        except CoxswainError as error:
            # Nobody is left to handle it; parts of another revision go with the next save of their document.
            logger.warning("parts_not_noted", reason=error.reason)

    async def note_saved(
        self,
        key: NamespaceKey,
        store: MemoryStore,
        named: Sequence[SavedDocument],
        records: Sequence[Record],
        began: datetime,
    ) -> None:
        """Bring back the documents whose parts were saved, and let those that were there count as changed.

        `began` is when the parts were expected.

        Raises:
            Aborted: another call has saved one of them meanwhile.
        """
        noted: dict[str, DocumentState] = {}
        async with self._database.write() as connection:
            repository = DocumentRepository(connection, key.group_id, store.backend_id)
            for document in _in_order(named):
                state = await repository.bring(replace(document, fingerprint=""), utc_now(), at_once=False)
                if state is not None:
                    noted[document.id] = state
        # An index that shows writes late tells later.
        if store.compares_revisions:
            await self._settle_noted(store, key, noted.values(), records, began)
        later = [document.id for document in named if document.id not in noted]
        if not later:
            return
        # They would stay when the document expires; where it fails they go with its next save, which knows of them.
        late = [r.id for r in records if isinstance(r.body, Document) and r.body.parent_document_id in later]
        with contextlib.suppress(CoxswainError):
            await store.delete(key, late, EVERYTHING, utc_now())
        raise saved_meanwhile(later[0])

    async def _settle_noted(
        self,
        store: MemoryStore,
        key: NamespaceKey,
        noted: Collection[DocumentState],
        records: Sequence[Record],
        began: datetime,
    ) -> None:
        """Remove documents whose parts others removed after they were saved and before the documents were noted.

        The others have what was saved of them.
        """
        one_of = {r.body.parent_document_id: r.id for r in records if isinstance(r.body, Document)}
        some = [one_of[state.id] for state in noted]
        seen = {record.id for record in await store.get(key, some, utc_now(), embeddings=False)}
        left = list[DocumentState]()
        for state in noted:
            if one_of[state.id] in seen or (await store.count(key, parts_of(state.id), utc_now())).count:
                left.append(state)
            else:
                await self._remove_row(store, key, state)
        async with self._database.write() as connection:
            repository = DocumentRepository(connection, key.group_id, store.backend_id)
            for state in left:
                # What is left of other revisions stays noted.
                await repository.withdraw(state.id, state.revision, began)

    async def clear(self, store: MemoryStore, key: NamespaceKey) -> int:
        """Remove the records of all documents and the documents that were there, and return how many records.

        A document that is saved meanwhile stays if all of its parts do.

        Raises:
            Aborted: one is being saved all the time.
        """
        async with self._database.write() as connection:
            await DocumentRepository(connection, key.group_id, store.backend_id).doubt(utc_now())
        before = {state.id: state async for state in self._states(store, key)}
        removed = await store.clear(key)
        async for state in self._states(store, key):
            # A save that had begun before may have ended since, and may end in a moment, without another revision.
            is_as_before = before.get(state.id) == state and state.revision == state.last_revision
            if not is_as_before or not await self._remove_row(store, key, state):
                removed += await self._remove_cleared(store, key, state.id)
        return removed

    async def _remove_row(self, store: MemoryStore, key: NamespaceKey, state: DocumentState) -> bool:
        now = None if store.removes_at_once else utc_now()
        async with self._database.write() as connection:
            return await DocumentRepository(connection, key.group_id, store.backend_id).remove_as(state, now)

    async def _states(self, store: MemoryStore, key: NamespaceKey) -> AsyncIterator[DocumentState]:
        after = ""
        while True:
            async with self._database.read() as connection:
                repository = DocumentRepository(connection, key.group_id, store.backend_id)
                some = await repository.states(after, ROWS_AT_ONCE)
            if not some:
                return
            for state in some:
                yield state
            after = some[-1].id

    async def _remove_cleared(self, store: MemoryStore, key: NamespaceKey, document_id: str) -> int:
        """Remove a document that was saved while its namespace was cleared, if parts of it may have been."""
        for _ in range(MOST_ATTEMPTS):
            row = await self.row(store, key, document_id)
            if row is None or (row.document is None and store.replaces_at_once):
                return 0
            # An index that shows writes late does not tell.
            if row.document is not None and store.compares_revisions and await is_whole(store, key, row.document):
                return 0
            with contextlib.suppress(Aborted):
                return await self.remove(store, key, row, utc_now())
        raise saved_all_the_time(document_id)

    async def remove(
        self,
        store: MemoryStore,
        key: NamespaceKey,
        row: DocumentRow,
        now: datetime,
        *,
        only_of: str = "",
        only_unexpected: bool = False,
    ) -> int:
        """Remove a document with all that may be there of it, and return how many records that was.

        With `only_unexpected` it stays where a save of its parts has begun since the row was read.

        Raises:
            Aborted: another call has saved or removed it meanwhile, or it is not the document of `only_of` alone.
        """

        def is_still(current: DocumentRow | None) -> bool:
            is_expected = current is not None and only_unexpected and current.due_us != row.due_us
            return current is not None and not is_expected and _is_still(current, row, only_of)

        stale = part_ids(row.id, (row.live, *row.stale))
        if not store.removes_at_once:
            last = await self._begin_removal(store, key, row.id, now, is_still)

            async def end(_connection: AsyncConnection | None) -> None:
                # A save that has begun since has a row to go on with, and parts that are left alone.
                async with self._database.write() as connection:
                    repository = DocumentRepository(connection, key.group_id, store.backend_id)
                    await repository.remove(row.id, last, utc_now())

            return await store.remove_document(key, row.id, last, stale, now, end)

        async def switch(connection: AsyncConnection | None) -> None:
            # In the transaction of the parts: that is what `removes_at_once` says.
            assert connection is not None
            repository = DocumentRepository(connection, key.group_id, store.backend_id)
            current = await repository.get(row.id, now, lock=True)
            if not is_still(current) or not await repository.remove(row.id, row.last_revision, None):
                raise saved_meanwhile(row.id)

        return await store.remove_document(key, row.id, row.last_revision, stale, now, switch)

    async def _begin_removal(
        self,
        store: MemoryStore,
        key: NamespaceKey,
        document_id: str,
        now: datetime,
        is_still: Callable[[DocumentRow], bool],
    ) -> int:
        """Let a document be there no more before its parts are removed: nothing would bring these back.

        Raises:
            Aborted: another call has saved or removed it meanwhile.
        """
        async with self._database.write() as connection:
            repository = DocumentRepository(connection, key.group_id, store.backend_id)
            current = await repository.get(document_id, now, lock=True)
            if current is None or not is_still(current):
                raise saved_meanwhile(document_id)
            return await repository.begin_removal(current, now)

    async def row(self, store: MemoryStore, key: NamespaceKey, document_id: str) -> DocumentRow | None:
        """Return what is kept of a document as it is now; None where there is none."""
        async with self._database.read() as connection:
            return await DocumentRepository(connection, key.group_id, store.backend_id).get(document_id, utc_now())


@contextlib.asynccontextmanager
async def joined(database: Database, connection: AsyncConnection | None) -> AsyncIterator[AsyncConnection]:
    """Yield a transaction that is open already, or one of its own."""
    if connection is not None:
        yield connection
        return
    async with database.write() as own:
        yield own


async def is_whole(store: MemoryStore, key: NamespaceKey, document: SavedDocument) -> bool:
    """Return whether the store has the parts of a document, as they have their revision in their ids."""
    now = utc_now()
    if (await store.count(key, parts_of(document.id), now)).count != document.part_count:
        return False
    return bool(await store.get(key, [part_id(document.id, document.revision, 0)], now, embeddings=False))


def _in_order(named: Sequence[SavedDocument]) -> Sequence[SavedDocument]:
    """Return documents in one order for everybody, so that two calls do not wait for each other's rows."""
    return sorted(named, key=lambda document: document.id)


def saved_all_the_time(document_id: str) -> Aborted:
    """Return the refusal of what others have overtaken again and again."""
    return Aborted(f'the document "{document_id}" is being saved all the time; call again to continue')


def saved_meanwhile(document_id: str) -> Aborted:
    """Return the refusal of what another call has overtaken."""
    return Aborted(
        f'another call has saved or removed the document "{document_id}" meanwhile; call again if yours is to count',
        reason="REVISION_MISMATCH",
        metadata={"resource": "document", "id": document_id},
    )


def ties_of(document: SavedDocument) -> Ties:
    """Return whom a document is tied to."""
    return Ties(document.subjects, "", json.loads(document.metadata).get("subject"))


def _is_still(current: DocumentRow, row: DocumentRow, only_of: str) -> bool:
    """Return whether a row is as it was read: no save has begun or ended, and what was not there has not come back.

    If `only_of` is given, the document has to be theirs alone as well.
    """
    is_same = (current.live.revision, current.last_revision) == (row.live.revision, row.last_revision)
    has_come_back = row.document is None and current.document is not None
    return is_same and not has_come_back and (not only_of or is_of_alone(current, only_of))


def is_of_alone(row: DocumentRow, subject: str) -> bool:
    """Return whether a document is there, and a subject's alone."""
    return row.document is not None and ties_of(row.document).are_of_alone(subject)


def _no_part(path: str, document: SavedDocument) -> FailedPrecondition:
    what = (
        f'the document "{document.id}" is there at revision {document.revision}, and this is none of its parts: '
        "save the whole file with SaveDocument, or remove the document with DeleteDocument first"
    )
    return FailedPrecondition(what, reason="INVALID_FIELD", violations=(FieldViolation(path, what),))
