"""Forgetting a person: everything that a group's memories hold of one subject."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

import structlog

from services.common.clock import utc_now
from services.common.errors import Aborted, CoxswainError, FailedPrecondition
from services.common.identity.principal import Principal, subject_hash
from services.memory.domain.filters import Filter
from services.memory.domain.history import Keeping
from services.memory.domain.namespaces import NamespaceInfo
from services.memory.domain.records import Document, MemoryKind, Record
from services.memory.domain.subjects import ties_of
from services.memory.stores.base import KeepsHistory, MemoryStore
from services.memory.stores.group_stores import BackendStores
from services.memory.usecases.document_subjects import DocumentSubjects
from services.memory.usecases.record_history import RecordHistory

logger = structlog.get_logger(__name__)

_NAMESPACES_AT_ONCE = 100
_MOST_ATTEMPTS = 5
"""Times that a record is tried which others save at the same moment."""


@dataclass(slots=True)
class ForgottenInNamespace:
    """What of a namespace is a subject's."""

    namespace: NamespaceInfo
    removed: int = 0
    """Records that are the subject's alone."""
    kept: int = 0
    """Records that others have saved as well: they stay, and no longer name the subject."""
    removed_versions: int = 0
    """Former versions of records that were removed from the history."""
    problem: str = ""
    """Why more of the subject's may be left; empty when nothing is."""


class Subjects:
    """Works on every namespace of the calling principal's group, in its default store and in its active backend."""

    def __init__(self, stores: BackendStores, documents: DocumentSubjects, history: RecordHistory) -> None:
        self._stores = stores
        self._documents = documents
        self._history = history

    async def forget(self, principal: Principal, subject: str, *, dry_run: bool) -> Sequence[ForgottenInNamespace]:
        """Remove what is tied to a subject, or with `dry_run` only count it; namespaces without any are left out.

        One that fails is among them, and keeps no other one from being gone through. It can be repeated, and continues
        what an interrupted call has begun.
        """
        results: list[ForgottenInNamespace] = []
        keeping = await self._history.keeping(principal)
        for store in await self._stores.all_of(principal.group_id):
            async for namespace in _namespaces(store, principal.group_id):
                result = ForgottenInNamespace(namespace)
                try:
                    whole = frozenset[str]()
                    if namespace.key.kind is MemoryKind.DOCUMENT:
                        result.removed, result.kept, whole = await self._documents.forget(
                            store, namespace, subject, dry_run=dry_run
                        )
                    await _Forgetting(store, subject, result, whole, keeping).go_through(dry_run=dry_run)
                except CoxswainError as error:
                    result.problem = error.message
                if result.removed or result.kept or result.removed_versions or result.problem:
                    results.append(result)
        if not dry_run:
            logger.info(
                "subject_forgotten",
                group_id=principal.group_id,
                by=principal.subject,
                subject_hash=subject_hash(subject),
                removed=sum(result.removed for result in results),
                removed_versions=sum(result.removed_versions for result in results),
                kept=sum(result.kept for result in results),
                failed=sum(bool(result.problem) for result in results),
            )
        return results


class _Forgetting:
    """One namespace, and what was done in it so far."""

    def __init__(
        self,
        store: MemoryStore,
        subject: str,
        result: ForgottenInNamespace,
        whole: frozenset[str],
        keeping: Keeping,
    ) -> None:
        """`whole` are documents that were decided as a whole: their parts are passed over."""
        self._whole = whole
        self._keeping = keeping
        self._store = store
        self._subject = subject
        self._result = result
        self._namespace = result.namespace

    async def go_through(self, *, dry_run: bool) -> None:
        """Remove what is the subject's alone, and take the subject out of what is not."""
        chosen = Filter(subject=self._subject, include_private=True)
        async for portion in self._store.read_through(
            self._namespace.key, chosen, "", utc_now(), embeddings=not dry_run
        ):
            records = [record for _, record in portion if not self._is_decided(record)]
            alone = [record for record in records if self._is_alone(record)]
            shared = [record for record in records if not self._is_alone(record)]
            if dry_run:
                self._result.removed += len(alone)
                self._result.kept += len(shared)
                continue
            if alone:
                shared += await self._remove([record.id for record in alone])
            for record in shared:
                await self._unlink(record)
        if isinstance(self._store, KeepsHistory):
            # Last: what others replace in between becomes a version too.
            self._result.removed_versions = await self._store.history.forget(
                self._namespace.key, self._subject, dry_run=dry_run
            )

    def _is_decided(self, record: Record) -> bool:
        return isinstance(record.body, Document) and record.body.parent_document_id in self._whole

    def _is_alone(self, record: Record) -> bool:
        return ties_of(record).are_of_alone(self._subject)

    async def _remove(self, ids: Sequence[str]) -> Sequence[Record]:
        """Remove records if they are still the subject's alone, and return those that are not any more."""
        key = self._namespace.key
        chosen = Filter(subject=self._subject, subject_alone=True, include_private=True)
        removed = await self._store.delete(key, ids, chosen, utc_now())
        self._result.removed += removed
        if removed == len(ids) or not self._store.compares_revisions:
            # Where reads lag behind writes, what was removed would come back.
            return []
        left = await self._store.get(key, ids, utc_now(), embeddings=True)
        return [record for record in left if self._subject in ties_of(record).subjects]

    async def _unlink(self, record: Record) -> None:
        """Save a record without the subject, as it is now."""
        key, found = self._namespace.key, [record]
        for _ in range(_MOST_ATTEMPTS):
            if not found or self._subject not in ties_of(found[0]).subjects:
                return
            if self._is_alone(found[0]):
                found = list(await self._remove([record.id]))
                continue
            if found[0].embedding is None:
                raise FailedPrecondition(f'the record "{record.id}" has no vector that can be read: save it again')
            rest = tuple(name for name in found[0].subjects if name != self._subject)
            expected = found[0].revision if self._store.compares_revisions else None
            changed = replace(found[0], subjects=rest, expected_revision=expected)
            try:
                await self._save(changed)
            except Aborted as error:
                if error.reason != "REVISION_MISMATCH":
                    raise
                found = list(await self._store.get(key, [record.id], utc_now(), embeddings=True))
            else:
                self._result.kept += 1
                return
        raise Aborted(f'the record "{record.id}" is being saved all the time; call again to continue')

    async def _save(self, record: Record) -> None:
        key, space = self._namespace.key, self._namespace.space
        if isinstance(self._store, KeepsHistory):
            # It says what it said before, and where versions are kept, since the same time.
            await self._store.save(key, space, [record], utc_now(), keeping=self._keeping)
        else:
            await self._store.save(key, space, [record], utc_now())


async def _namespaces(store: MemoryStore, group_id: str) -> AsyncIterator[NamespaceInfo]:
    after: tuple[str, MemoryKind] | None = None
    while page := await store.namespaces(group_id, _NAMESPACES_AT_ONCE, after, counted=False):
        for namespace in page:
            yield namespace
        after = page[-1].key.memory_id, page[-1].key.kind
