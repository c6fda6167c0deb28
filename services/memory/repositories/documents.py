"""Rows of documents that were saved as a whole."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Text,
    and_,
    case,
    cast,
    delete,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.db.upsert import insert_ignore
from services.memory.domain.documents import PartsWritten, SavedDocument, document_key
from services.memory.domain.moments import microseconds, moment_of
from services.memory.tables import documents

_TIMES = ("created_at", "updated_at", "expires_at")
_AT_ONCE = 500
_MOST_STALE = 32
"""Revisions whose parts are noted as stale; those of earlier ones have long been seen in every store."""
_REMOVED = {"part_count": 0}
"""Stands for a document whose parts are being removed."""
_SETTLED: Mapping[str, Any] = {"due_us": None}
_SAVED_BY = timedelta(days=1)
"""After which a save that has begun has ended or is dead."""
_SETTLED_BY = timedelta(minutes=10)
"""After which all else has: a removal, a save of parts alone, and what a save does after its switch."""


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """What is kept of a document, whether or not its first save has ended."""

    id: str
    document: SavedDocument | None
    """None before the first save has ended, and when it has expired."""
    pending: SavedDocument | None
    """What parts that are being saved bring, until they are noted; None where a document has been there."""
    live: PartsWritten
    """Its parts."""
    being_removed: bool
    """Whether a removal has begun and not ended."""
    last_revision: int
    stale: Sequence[PartsWritten]
    """Parts that may be in the store as well, of saves that have not ended and of earlier revisions."""
    due_us: int | None
    """When what has begun has ended or is dead; None if nothing has. All that begins changes it."""

    def written_before(self, revision: int) -> list[PartsWritten]:
        """Return all parts that may be in the store of revisions before one."""
        # Where parts of the one that counts are being saved as well, that is what is noted.
        written = {parts.revision: parts for parts in (self.live, *self.stale) if parts.count}
        return [parts for parts in written.values() if parts.revision < revision]


@dataclass(frozen=True, slots=True)
class DocumentState:
    """What tells whether anything has happened to a document between two looks, if both revisions are equal."""

    id: str
    revision: int
    """That of its parts; 0 before the first save has ended."""
    last_revision: int
    """That of the last save that has begun, or more: it is raised whenever parts are saved otherwise, too."""
    updated_us: int | None
    """When it was saved; one that was removed and saved anew has the same revisions again. None if it is not there."""


class DocumentRepository:
    """The documents of one group in one backend; None is the default store."""

    def __init__(self, connection: AsyncConnection, group_id: str, backend_id: str | None) -> None:
        self._connection = connection
        self._group_id = group_id
        self._backend_id = backend_id

    async def get(self, document_id: str, now: datetime, *, lock: bool = False) -> DocumentRow | None:
        """Return a document's row; with `lock` it stays as it is until the transaction ends."""
        statement = select(documents).where(self._is(document_id))
        row = (await self._connection.execute(statement.with_for_update() if lock else statement)).one_or_none()
        return None if row is None else _row(row._asdict(), now)

    async def some(self, ids: Sequence[str], now: datetime) -> dict[str, SavedDocument]:
        """Return the documents there are of some ids."""
        found: dict[str, SavedDocument] = {}
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            found |= await self._documents(select(documents).where(self._own(), documents.c.document_id.in_(some)), now)
        return found

    async def page(self, after: str, limit: int, now: datetime) -> Sequence[SavedDocument]:
        """Return the next documents, sorted by id."""
        statement = select(documents).where(self._own(), documents.c.revision > 0, documents.c.document_id > after)
        alive = or_(documents.c.expires_us.is_(None), documents.c.expires_us > microseconds(now))
        found = await self._documents(statement.where(alive).order_by(documents.c.document_id).limit(limit), now)
        return list(found.values())

    async def claim(self, document_id: str, count: int, now: datetime) -> tuple[int, DocumentRow]:
        """Return the revision that a save of so many parts gets, and the row as it was before.

        Of saves that never end the last ones are noted: what earlier ones have left names the document as its own.
        """
        row = await self._taken(document_id, now)
        revision = row.last_revision + 1
        ends = now + _SAVED_BY
        await self._set(
            document_id,
            last_revision=revision,
            stale=_noted(row, PartsWritten(revision, count, microseconds(ends))),
            due_us=_not_before(ends),
            expires_us=_claimed(now),
        )
        return revision, row

    async def expect(self, document: SavedDocument, now: datetime) -> bool:
        """Note that parts of a document are about to be saved, whether or not it is there; see `bring`.

        Return False, and note nothing, if it is there at another revision, or is being removed with its parts.
        """
        row = await self._taken(document.id, now)
        existing = row.document
        if row.being_removed or (existing is not None and existing.revision != document.revision):
            return False
        values = _expected(row, document, now)
        if existing is not None:
            # From here on it may have other parts than its file makes.
            values["document"] = _document(replace(existing, fingerprint=""))
        else:
            values["last_revision"] = max(row.last_revision, document.revision)
            if not row.live.revision:
                values |= {"document": _document(document), "subjects": list(document.subjects)}
        await self._set(document.id, **values)
        return True

    async def expect_again(self, document: SavedDocument, now: datetime) -> bool:
        """Note that parts of a document that is there are about to be saved as they are.

        Return False, and note nothing, if it is not there at that revision.
        """
        row = await self.get(document.id, now, lock=True)
        if row is None or row.document is None or row.document.revision != document.revision:
            return False
        await self._set(document.id, **_expected(row, document, now))
        return True

    async def withdraw(self, document_id: str, revision: int, began: datetime) -> None:
        """Note that of a revision that was claimed or expected no part is in the store, or that it is what counts.

        `began` is when it was claimed or expected. It stays noted where others are writing it as well.
        """
        own = {0, microseconds(began + _SAVED_BY), microseconds(began + _SETTLED_BY)}
        columns = (documents.c.stale, documents.c.revision, documents.c.document, documents.c.expires_us)
        row = (
            await self._connection.execute(select(*columns).where(self._is(document_id)).with_for_update())
        ).one_or_none()
        if row is None:
            return
        written = map(_parts, row.stale)
        left = [parts for parts in written if parts.revision != revision or parts.until_us not in own]
        values: dict[str, Any] = {"stale": _stale(left)}
        if row.revision and row.document != _REMOVED:
            values |= _due_with(left)
            # The claim may have moved it; below zero it is the removal that the release before has begun.
            if not left and (row.expires_us or 0) > 0:
                values["expires_us"] = row.document["expires_at"]
        await self._set(document_id, **values)

    async def bring(self, document: SavedDocument, now: datetime, *, at_once: bool) -> DocumentState | None:
        """Let a document be there that parts from elsewhere bring, or note that parts of one that is there were saved.

        `at_once` says that they are saved in the same transaction. Elsewhere it is looked at later whether they are
        there, unless `settle` comes before.

        Return its state, in which the last revision is raised: nobody removes the document as it was before. None if it
        is not at their revision, or is being removed with its parts; they go with its next save or removal then.
        """
        row = await self._taken(document.id, now)
        existing, raised = row.document, max(document.revision, row.last_revision + 1)
        due: Mapping[str, Any] = {"due_us": _not_before(now + _SETTLED_BY)}
        if existing is None and not row.being_removed:
            written = [row.live, *row.stale] if row.live.count else row.stale
            # Others may be saving the same parts.
            others = [p for p in written if p.revision != document.revision or (p.until_us and not at_once)]
            due = _SETTLED if at_once and not others else due
            await self._put(document, replace(row, last_revision=raised), others, **due)
        elif existing is not None and existing.revision == document.revision:
            values = _document(replace(existing, fingerprint=""))
            due = _SETTLED if at_once and not row.stale else due
            await self._set(document.id, document=values, last_revision=raised, **due)
        else:
            await self._set(document.id, last_revision=raised, **_expected(row, document, now))
            return None
        updated_us = microseconds((existing or document).updated_at)
        return DocumentState(document.id, document.revision, raised, updated_us)

    async def switch(self, document: SavedDocument, *, gone: bool) -> bool:
        """Let a revision that was claimed be what counts, unless a later one does or the document was removed.

        `gone` says that the parts of earlier revisions are removed with it.
        """
        now = document.updated_at
        row = await self.get(document.id, now, lock=True)
        if row is None or row.live.revision > document.revision or row.last_revision < document.revision:
            return False
        if any(not parts.count and parts.revision > document.revision for parts in row.stale):
            return False
        later = [parts for parts in row.stale if parts.revision > document.revision]
        # Others may be saving parts of the same revision.
        own = (0, microseconds(now + _SAVED_BY))
        beside = [parts for parts in row.stale if parts.revision == document.revision and parts.until_us not in own]
        stale = later if gone else [*row.written_before(document.revision), *beside, *later]
        soon: Mapping[str, Any] = {"due_us": microseconds(now + _SETTLED_BY)}
        # Whoever saves another revision has its time.
        due = {} if later or _being_written(stale, now) else _SETTLED if gone else soon
        await self._put(document, row, stale, **due)
        return True

    async def restore(self, document: SavedDocument, row: DocumentRow) -> bool:
        """Let an earlier revision be what counts, as its parts are the ones there, if a row is as it was read."""
        existing = await self.get(row.id, document.updated_at, lock=True)
        if existing != row:
            return False
        stale = [parts for parts in (row.live, *row.stale) if parts.revision != document.revision]
        await self._put(document, row, stale)
        return True

    async def add_subject(self, document_id: str, revision: int, subject: str, now: datetime) -> SavedDocument | None:
        """Note that a subject has saved a document too, and return it; None when it is at that revision no more."""
        row = await self.get(document_id, now, lock=True)
        document = row.document if row else None
        if document is None or document.revision != revision:
            return None
        if subject not in document.subjects:
            document = replace(document, subjects=(*document.subjects, subject))
            await self._set(document_id, subjects=list(document.subjects))
        return document

    async def remove_subject(self, document_id: str, subject: str) -> None:
        """Note that a document is a subject's no more."""
        statement = select(documents.c.subjects).where(self._is(document_id)).with_for_update()
        subjects = await self._connection.scalar(statement)
        if subjects and subject in subjects:
            await self._set(document_id, subjects=[name for name in subjects if name != subject])

    async def _put(
        self, document: SavedDocument, row: DocumentRow, stale: Sequence[PartsWritten], **values: Any
    ) -> None:
        await self._set(
            document.id,
            document=_document(document),
            revision=document.revision,
            last_revision=max(document.revision, row.last_revision),
            stale=_stale(stale),
            subjects=list(document.subjects),
            expires_us=None if document.expires_at is None else microseconds(document.expires_at),
            **values,
        )

    async def settle(self, document_id: str, revision: int, last_revision: int, now: datetime) -> None:
        """Note that of revisions up to the last one only the one that counts has parts, unless another counts now.

        What others are writing stays noted.
        """
        at_revision = and_(self._is(document_id), documents.c.revision == revision)
        stale = await self._connection.scalar(select(documents.c.stale).where(at_revision).with_for_update())
        if stale is None:
            return
        written = [_parts(parts) for parts in stale]
        left = [parts for parts in written if parts.revision > last_revision or _being_written([parts], now)]
        await self._set(document_id, stale=_stale(left), **_due_with(left))

    async def doubt(self, now: datetime) -> None:
        """Have all documents looked at after a while, unless they are gone or saved anew by then."""
        # As `remove_expired_documents` does, waiting for none.
        some = select(documents.c.id).where(self._own()).with_for_update(skip_locked=True)
        due_us = _not_before(now + _SETTLED_BY)
        await self._connection.execute(update(documents).where(documents.c.id.in_(some)).values(due_us=due_us))

    async def begin_removal(self, row: DocumentRow, now: datetime) -> int:
        """Let a document, whose row is locked, be there no more, nor by a save that has begun; note all of its parts.

        Return the last revision that the row has then: to be removed at, and less than what saves get that begin now.
        """
        revision = row.last_revision + 1
        await self._set(
            row.id,
            document=_REMOVED,
            expires_us=None,
            due_us=microseconds(now + _SETTLED_BY),
            # What is not shown is passed over when a person is forgotten.
            subjects=[],
            revision=revision,
            last_revision=revision + 1,
            stale=_stale([parts for parts in (row.live, *row.stale) if parts.count]),
        )
        return revision + 1

    async def remove(self, document_id: str, last_revision: int, now: datetime | None) -> bool:
        """Remove a document's row, if no save has begun since a revision, and return whether it was there.

        Where others are writing parts of it at `now`, a row is kept that says so, and that it is not there. `now` is
        None in a store to which nothing is written outside of the transaction.
        """
        unchanged = and_(self._is(document_id), documents.c.last_revision == last_revision)
        stale = await self._connection.scalar(select(documents.c.stale).where(unchanged).with_for_update())
        if stale is None:
            return False
        written = [] if now is None else [parts for parts in map(_parts, stale) if _being_written([parts], now)]
        if not written:
            await self._connection.execute(delete(documents).where(unchanged))
            return True
        until_us = max(parts.until_us for parts in written)
        await self._set(
            document_id,
            document=None,
            revision=0,
            subjects=[],
            expires_us=None,
            due_us=until_us,
            stale=_stale([*written, PartsWritten(last_revision, 0, until_us)][-_MOST_STALE:]),
        )
        return True

    async def remove_as(self, state: DocumentState, now: datetime | None) -> bool:
        """Do what `remove` does if a document's row is in a state, and return whether it was."""
        return await self._states(self._is(state.id), 1, lock=True) == [state] and await self.remove(
            state.id, state.last_revision, now
        )

    async def begin_repair(self, row: DocumentRow, now: datetime) -> DocumentRow | None:
        """Let nobody else repair a document for a while; return its row, or None unless it is as it was read."""
        if await self.get(row.id, now, lock=True) != row:
            return None
        due_us = microseconds(now + _SETTLED_BY)
        await self._set(row.id, due_us=due_us)
        return replace(row, due_us=due_us)

    async def due(self, now: datetime, limit: int) -> Sequence[DocumentRow]:
        """Return some rows of documents that have expired, or of which something has begun that never ended."""
        return [row for _, row in await _due(self._connection, self._own(), now, limit)]

    async def states(self, after: str, limit: int) -> Sequence[DocumentState]:
        """Return the states of the next documents, sorted by id, those of saves that have not ended too."""
        return await self._states(and_(self._own(), documents.c.document_id > after), limit)

    async def _states(self, clause: ColumnElement[bool], limit: int, *, lock: bool = False) -> Sequence[DocumentState]:
        columns = (documents.c.document_id, documents.c.revision, documents.c.last_revision, documents.c.document)
        statement = select(*columns).where(clause).order_by(documents.c.document_id).limit(limit)
        rows = await self._connection.execute(statement.with_for_update() if lock else statement)
        return [
            DocumentState(*row[:3], row.document.get("updated_at") if row.revision and row.document else None)
            for row in rows
        ]

    async def _taken(self, document_id: str, now: datetime) -> DocumentRow:
        """Return a document's row, locked; it is made where there is none."""
        while True:
            await insert_ignore(self._connection, documents, self._new(document_id))
            row = await self.get(document_id, now, lock=True)
            # One that was there is not locked by that, and a removal may be faster.
            if row is not None:
                return row

    async def _set(self, document_id: str, **values: Any) -> None:
        await self._connection.execute(update(documents).where(self._is(document_id)).values(**values))

    async def _documents(self, statement: Select[Any], now: datetime) -> dict[str, SavedDocument]:
        rows = [_row(row._asdict(), now) for row in await self._connection.execute(statement)]
        return {row.id: row.document for row in rows if row.document is not None}

    def _new(self, document_id: str) -> Mapping[str, Any]:
        return {
            "id": document_key(self._group_id, self._backend_id, document_id),
            "group_id": self._group_id,
            "backend_id": self._backend_id,
            "document_id": document_id,
            "document": None,
            "revision": 0,
            "last_revision": 0,
            "stale": [],
            "subjects": [],
        }

    def _is(self, document_id: str) -> ColumnElement[bool]:
        key = document_key(self._group_id, self._backend_id, document_id)
        return and_(documents.c.id == key, documents.c.group_id == self._group_id)

    def _own(self) -> ColumnElement[bool]:
        backend = documents.c.backend_id
        is_here = backend.is_(None) if self._backend_id is None else backend == self._backend_id
        return and_(documents.c.group_id == self._group_id, is_here)


async def remove_expired_documents(connection: AsyncConnection, now: datetime, *, unfinished: bool) -> int:
    """Remove the rows of documents of the default store that have expired, whose parts expire with them.

    One that is being saved anew stays for that. `unfinished` says that those go too whose first save has begun a day
    ago and never ended: it has left no parts.
    """
    # Elsewhere parts stay until somebody's credential is at hand: what has to be removed there is not forgotten.
    here = documents.c.backend_id.is_(None)
    never_there = and_(documents.c.revision == 0, documents.c.due_us <= microseconds(now))
    # What a replacement has left of an earlier revision may expire later, or never.
    alone = cast(documents.c.stale, Text) == "[]"
    over = or_(_has_expired(now), never_there) if unfinished else and_(_has_expired(now), alone)
    # Waiting for none of several rows, it can be part of no deadlock; the next sweep finds those that are held.
    ended = select(documents.c.id).where(here, over).with_for_update(skip_locked=True)
    return (await connection.execute(delete(documents).where(documents.c.id.in_(ended)))).rowcount


async def due_here(connection: AsyncConnection, now: datetime, limit: int) -> Sequence[tuple[str, DocumentRow]]:
    """Return what `DocumentRepository.due` does of the default store, of all groups, each with its group."""
    return await _due(connection, documents.c.backend_id.is_(None), now, limit)


async def _due(
    connection: AsyncConnection, clause: ColumnElement[bool], now: datetime, limit: int
) -> Sequence[tuple[str, DocumentRow]]:
    statement = select(documents).where(clause, _is_due(now))
    first = func.coalesce(documents.c.due_us, documents.c.expires_us)
    rows = await connection.execute(statement.order_by(first).limit(limit))
    return [(row.group_id, _row(row._asdict(), now)) for row in rows]


def _is_due(now: datetime) -> ColumnElement[bool]:
    """Return the clause that holds for documents that have expired, or of which something has begun and never ended."""
    # The release before notes the beginning of a removal in `expires_us`, below zero.
    removed_before = and_(documents.c.expires_us < 0, -documents.c.expires_us <= microseconds(now - _SAVED_BY))
    return or_(_has_expired(now), documents.c.due_us <= microseconds(now), removed_before)


def _has_expired(now: datetime) -> ColumnElement[bool]:
    """Return the clause that holds for documents that have expired, but for those that are being saved anew."""
    now_us, due_us = microseconds(now), documents.c.due_us
    # The release before stores no `due_us`: it notes in `expires_us` when a save of what is not there has begun.
    unclaimed = or_(
        documents.c.last_revision == documents.c.revision, documents.c.expires_us <= microseconds(now - _SAVED_BY)
    )
    expired = documents.c.expires_us.between(1, now_us)
    return and_(expired, or_(and_(due_us.is_(None), unclaimed), due_us <= now_us))


def _not_before(moment: datetime) -> ColumnElement[Any]:
    """Return what `due_us` is when something else has begun that may last until a moment: another value in any case."""
    due_us, new = documents.c.due_us, literal(microseconds(moment), BigInteger)
    return case((due_us >= new, due_us + 1), else_=new)


def _claimed(now: datetime) -> ColumnElement[Any]:
    """Return what `expires_us` is when a save has begun: not before that where the document is not there.

    The release before knows no `due_us`: it takes what has expired a day ago, or is being removed since then.
    """
    expires_us, now_us = documents.c.expires_us, literal(microseconds(now), BigInteger)
    return case((expires_us < 0, -now_us), (expires_us <= now_us, now_us), else_=expires_us)


def _expected(row: DocumentRow, document: SavedDocument, now: datetime) -> dict[str, Any]:
    """Return the columns that say that parts of a document are about to be saved, or just were."""
    ends = now + _SETTLED_BY
    written = PartsWritten(document.revision, document.part_count, microseconds(ends))
    return {"stale": _noted(row, written), "due_us": _not_before(ends)}


def _being_written(written: Sequence[PartsWritten], now: datetime) -> bool:
    return any(parts.until_us > microseconds(now) for parts in written)


def _due_with(left: Sequence[PartsWritten]) -> Mapping[str, Any]:
    """Return what `due_us` becomes where a call has ended and has left what others are writing."""
    if not left:
        return _SETTLED
    # Of what has no time nobody knows; then it stays as it is.
    return {"due_us": max(parts.until_us for parts in left)} if all(parts.until_us for parts in left) else {}


def _row(values: Mapping[str, Any], now: datetime) -> DocumentRow:
    known, was_there = values["document"], bool(values["revision"])
    saved = _saved(known, values["subjects"]) if known and known != _REMOVED else None
    is_alive = saved is not None and (saved.expires_at is None or saved.expires_at > now)
    count = known["part_count"] if was_there else 0
    return DocumentRow(
        id=values["document_id"],
        document=saved if was_there and is_alive else None,
        pending=None if was_there else saved,
        live=PartsWritten(values["revision"], count),
        being_removed=values["document"] == _REMOVED,
        last_revision=values["last_revision"],
        stale=[_parts(parts) for parts in values["stale"]],
        due_us=values["due_us"],
    )


def _document(document: SavedDocument) -> dict[str, Any]:
    values = dataclasses.asdict(document)
    del values["subjects"]
    return values | {name: values[name] and microseconds(values[name]) for name in _TIMES}


def _saved(values: Mapping[str, Any], subjects: Sequence[str]) -> SavedDocument:
    times = {name: None if values[name] is None else moment_of(values[name]) for name in _TIMES}
    return SavedDocument(**{**values, **times, "agent_ids": tuple(values["agent_ids"]), "subjects": tuple(subjects)})


def _stale(written: Sequence[PartsWritten]) -> list[list[int]]:
    return [[parts.revision, parts.count, parts.until_us] for parts in written]


def _noted(row: DocumentRow, written: PartsWritten) -> list[list[int]]:
    # One without parts says that the document was removed at its revision.
    others = [parts for parts in row.stale if parts.revision != written.revision or not parts.count]
    for same in (parts for parts in row.stale if parts not in others and parts.until_us):
        # Later than any of those who write it: none of them withdraws it from under the others.
        until_us = max(same.until_us, written.until_us) + 1
        written = PartsWritten(written.revision, max(same.count, written.count), until_us)
    return _stale([*others, written][-_MOST_STALE:])


def _parts(stored: Sequence[int]) -> PartsWritten:
    # The release before stores no time, and a later one may store more.
    return PartsWritten(*stored[:3])
