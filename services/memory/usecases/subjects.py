"""Forgetting a person: everything that a group's memories hold of one subject."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

import structlog

from services.common.clock import utc_now
from services.common.errors import Aborted
from services.common.identity.principal import Principal
from services.memory.domain.filters import EVERYTHING, Filter
from services.memory.domain.listings import ListPosition
from services.memory.domain.moments import microseconds
from services.memory.domain.namespaces import NamespaceInfo
from services.memory.domain.records import MemoryKind, Record
from services.memory.domain.subjects import is_of_subject_alone
from services.memory.stores.base import MemoryStore
from services.memory.stores.group_stores import BackendStores

logger = structlog.get_logger(__name__)

_NAMESPACES_AT_ONCE = 100
_RECORDS_AT_ONCE = 200
_MOST_ATTEMPTS = 5
"""Times that a record is tried which others save at the same moment."""


@dataclass(frozen=True, slots=True)
class ForgottenInNamespace:
    """What of a namespace is a subject's."""

    namespace: NamespaceInfo
    removed: int
    """Records that are the subject's alone."""
    kept: int
    """Records that others have saved as well: they stay, and no longer name the subject."""


class Subjects:
    """Works on every namespace of the calling principal's group, in its default store and in its active backend."""

    def __init__(self, stores: BackendStores) -> None:
        self._stores = stores

    async def forget(self, principal: Principal, subject: str, *, dry_run: bool) -> Sequence[ForgottenInNamespace]:
        """Remove what is tied to a subject, or with `dry_run` only count it; namespaces without any are left out.

        It can be repeated, and continues what an interrupted call has begun.
        """
        results: list[ForgottenInNamespace] = []
        for store in await self._stores.all_of(principal.group_id):
            async for namespace in _namespaces(store, principal.group_id):
                result = await self._forget_in(store, namespace, subject, dry_run=dry_run)
                if result.removed or result.kept:
                    results.append(result)
        if not dry_run:
            logger.info(
                "subject_forgotten",
                group_id=principal.group_id,
                by=principal.subject,
                subject_hash=hashlib.sha256(subject.encode()).hexdigest(),
                removed=sum(result.removed for result in results),
                kept=sum(result.kept for result in results),
            )
        return results

    async def _forget_in(
        self, store: MemoryStore, namespace: NamespaceInfo, subject: str, *, dry_run: bool
    ) -> ForgottenInNamespace:
        key, chosen = namespace.key, Filter(subject=subject, include_private=True)
        removed = kept = 0
        after: ListPosition | None = None
        while True:
            page = await store.page(key, chosen, _RECORDS_AT_ONCE, after, utc_now(), embeddings=not dry_run)
            alone = [record.id for record in page.records if is_of_subject_alone(record, subject)]
            shared = [record for record in page.records if not is_of_subject_alone(record, subject)]
            if not dry_run:
                if alone:
                    await store.delete(key, alone, EVERYTHING, utc_now())
                for record in shared:
                    await self._unlink(store, namespace, record, subject)
            removed, kept = removed + len(alone), kept + len(shared)
            if not page.more:
                return ForgottenInNamespace(namespace, removed, kept)
            last = page.records[-1]
            assert last.created_at is not None
            after = ListPosition(microseconds(last.created_at), key.stored_id(last.id))

    async def _unlink(self, store: MemoryStore, namespace: NamespaceInfo, record: Record, subject: str) -> None:
        """Save a record without the subject, as it is now."""
        key, found = namespace.key, [record]
        for _ in range(_MOST_ATTEMPTS):
            if not found or subject not in found[0].subjects:
                return
            rest = tuple(name for name in found[0].subjects if name != subject)
            expected = found[0].revision if store.compares_revisions else None
            try:
                await store.save(
                    key, namespace.space, [replace(found[0], subjects=rest, expected_revision=expected)], utc_now()
                )
            except Aborted as error:
                if error.reason != "REVISION_MISMATCH":
                    raise
                found = list(await store.get(key, [record.id], utc_now(), embeddings=True))
            else:
                return
        raise Aborted(f'the record "{record.id}" is being saved all the time; call again to continue')


async def _namespaces(store: MemoryStore, group_id: str) -> AsyncIterator[NamespaceInfo]:
    after: tuple[str, MemoryKind] | None = None
    while page := await store.namespaces(group_id, _NAMESPACES_AT_ONCE, after):
        for namespace in page:
            yield namespace
        after = page[-1].key.memory_id, page[-1].key.kind
