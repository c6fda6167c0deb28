"""Saving and finding memories, whatever the store."""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy.typing as npt

from services.common.clock import utc_now
from services.common.errors import InvalidArgument, NotFound, PermissionDenied
from services.common.identity.principal import Principal, Role
from services.memory import filters
from services.memory.domain import (
    EmbeddingSpace,
    Filter,
    Found,
    ListPosition,
    MemoryKind,
    NamespaceInfo,
    NamespaceKey,
    Page,
    Query,
    Ranking,
    Record,
    ScopeInfo,
    SearchOutcome,
    SearchPosition,
    ShortTerm,
    Tally,
    Vector,
    derive_memory_id,
    microseconds,
    normalise_scope,
    summarise_children,
    summarise_scope,
    unit_vector,
)
from services.memory.embedding import Embedder
from services.memory.schemas import Column, has_column
from services.memory.stores.base import MemoryStore, embedding_mismatch
from services.memory.usecases.entity_graph import EntityGraph, traverse


class GroupStores(Protocol):
    """Knows where each group's memories lie."""

    async def of(self, group_id: str, kind: MemoryKind) -> MemoryStore:
        """Return the store of a group for a kind.

        Raises:
            FailedPrecondition: the group's backend does not store the kind.
        """
        ...

    async def any_of(self, group_id: str) -> MemoryStore:
        """Return the group's store, whatever kinds it stores."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """A search as it was asked: by a text or by a vector."""

    text: str
    vector: npt.ArrayLike | None
    filter: Filter
    limit: int
    min_score: float | None
    ranking: Ranking | None
    include_embeddings: bool
    after: SearchPosition | None
    asked_at: datetime
    """When its first page was asked for."""


class MemoryUseCases:
    """Every operation is the calling principal's group's own: its id is never taken from a request."""

    def __init__(
        self, stores: GroupStores, embedder: Embedder, *, default_model: str, short_term_ttl_hours: int
    ) -> None:
        """`default_model` embeds new namespaces; empty means what models takes for its default."""
        self._stores = stores
        self._embedder = embedder
        self._default_model = default_model
        self._short_term_ttl_hours = short_term_ttl_hours

    async def save(
        self, principal: Principal, memory_id: str, kind: MemoryKind, records: Sequence[Record], model: str
    ) -> None:
        """Store records, embedding those that have no vector; an empty model means the namespace's.

        Raises:
            InvalidArgument: a record is of another kind, or their vectors differ in length.
            FailedPrecondition: the vectors do not belong into the namespace's space.
        """
        key = namespace_key(principal, memory_id, kind)
        for place, record in enumerate(records):
            if record.kind is not kind:
                raise InvalidArgument.field(
                    f"records[{place}]", f"is a {record.kind.name} record; the namespace holds {kind.name} records"
                )
            if isinstance(record.body, ShortTerm) and record.body.ttl_hours == 0:
                record.body.ttl_hours = self._short_term_ttl_hours
        store = await self._stores.of(principal.group_id, kind)
        existing = await store.space(key)
        space = await self._embed(existing, records, model)
        await store.save(key, space, records, utc_now())

    async def _embed(self, existing: EmbeddingSpace | None, records: Sequence[Record], model: str) -> EmbeddingSpace:
        """Give every record a vector of one space, and return the space."""
        given = {len(record.embedding) for record in records if record.embedding is not None}
        if existing and model and model != existing.model:
            raise embedding_mismatch(existing, model, next(iter(given), 0))
        expected = existing or (await self._space_of(model, given) if given else None)
        if expected:
            for length in given - {expected.dimension}:
                raise embedding_mismatch(expected, model, length)
        bare = [record for record in records if record.embedding is None]
        if not bare:
            assert expected is not None
            return expected
        embedded = await self._embedder.embed(
            expected.model if expected else model or self._default_model, [record.text for record in bare]
        )
        if expected and embedded.space != expected:
            raise embedding_mismatch(expected, embedded.space.model, embedded.space.dimension)
        for record, vector in zip(bare, embedded.vectors, strict=True):
            record.embedding = vector
        return embedded.space

    async def _space_of(self, model: str, given: set[int]) -> EmbeddingSpace:
        """Return the space that a new namespace gets from vectors that came with their records."""
        if len(given) > 1:
            lengths = " and ".join(str(length) for length in sorted(given))
            raise InvalidArgument.field("records", f"their embeddings have different lengths: {lengths}")
        # A model that is named is the client's word; without one the vectors have to be of the default model.
        return EmbeddingSpace(model, next(iter(given))) if model else await self._embedder.space(self._default_model)

    async def search(self, principal: Principal, memory_id: str, kind: MemoryKind, asked: Question) -> SearchOutcome:
        """Return the best records, best first.

        Raises:
            InvalidArgument: the vector has no direction, or the ranking does not fit the kind.
            PermissionDenied: private records are asked for without the role EDITOR.
        """
        key = namespace_key(principal, memory_id, kind)
        _check_privacy(principal, asked.filter)
        if asked.ranking and asked.ranking.importance_weight and not has_column(kind, Column.IMPORTANCE):
            raise InvalidArgument.field("ranking.importance_weight", f"{kind.name} records have no importance")
        vector = None if asked.vector is None else query_vector(asked.vector, "vector.values")
        store = await self._stores.of(principal.group_id, kind)
        if vector is None:
            space = await store.space(key)
            if space is None:
                return SearchOutcome()
            vector = (await self._embedder.embed(space.model, [asked.text])).vectors[0]
        query = Query(
            vector=vector,
            limit=asked.limit,
            filter=asked.filter,
            min_score=asked.min_score,
            ranking=asked.ranking,
            include_embeddings=asked.include_embeddings,
            after=asked.after,
            asked_at=asked.asked_at,
        )
        return await store.search(key, query, utc_now())

    async def get(
        self, principal: Principal, memory_id: str, kind: MemoryKind, record_id: str, *, embedding: bool
    ) -> Record:
        """Return one record.

        Raises:
            NotFound: the namespace has none of that id.
        """
        key = namespace_key(principal, memory_id, kind)
        store = await self._stores.of(principal.group_id, kind)
        found = await store.get(key, [record_id], utc_now(), embeddings=embedding)
        if not found:
            raise NotFound.of("memory", record_id)
        return found[0]

    async def page(
        self,
        principal: Principal,
        memory_id: str,
        kind: MemoryKind,
        chosen: Filter,
        limit: int,
        after: ListPosition | None,
        *,
        embeddings: bool,
    ) -> Page:
        """Return the next records, newest first."""
        key = namespace_key(principal, memory_id, kind)
        _check_privacy(principal, chosen)
        store = await self._stores.of(principal.group_id, kind)
        return await store.page(key, chosen, limit, after, utc_now(), embeddings=embeddings)

    async def delete(
        self, principal: Principal, memory_id: str, kind: MemoryKind, ids: Sequence[str], chosen: Filter | None
    ) -> int:
        """Remove records by id, by filter, or by both, and return how many.

        Raises:
            InvalidArgument: neither is given.
        """
        key = namespace_key(principal, memory_id, kind)
        if chosen is not None:
            _check_privacy(principal, chosen)
            if filters.is_empty(chosen) and not ids:
                raise InvalidArgument.field("filter", "chooses everything; call Clear to remove every record")
        elif not ids:
            raise InvalidArgument.field("ids", "name the records by ids or by a filter")
        store = await self._stores.of(principal.group_id, kind)
        return await store.delete(key, ids or None, chosen, utc_now())

    async def count(self, principal: Principal, memory_id: str, kind: MemoryKind, chosen: Filter) -> Tally:
        """Return how many records match."""
        key = namespace_key(principal, memory_id, kind)
        _check_privacy(principal, chosen)
        store = await self._stores.of(principal.group_id, kind)
        return await store.count(key, chosen, utc_now())

    async def clear(self, principal: Principal, memory_id: str, kind: MemoryKind) -> int:
        """Remove every record of a namespace and its embedding model, and return how many records there were."""
        key = namespace_key(principal, memory_id, kind)
        store = await self._stores.of(principal.group_id, kind)
        return await store.clear(key)

    async def touch(self, principal: Principal, memory_id: str, kind: MemoryKind, ids: Sequence[str]) -> int:
        """Set the time of last access to now, and return how many records there were.

        Raises:
            InvalidArgument: the kind does not record it.
        """
        key = namespace_key(principal, memory_id, kind)
        if not has_column(kind, Column.LAST_ACCESSED):
            raise InvalidArgument.field("namespace.kind", f"{kind.name} records have no time of last access")
        store = await self._stores.of(principal.group_id, kind)
        return await store.touch(key, ids, utc_now())

    async def child_scopes(
        self, principal: Principal, memory_id: str, kind: MemoryKind, parent: str
    ) -> Sequence[ScopeInfo]:
        """Return the scopes directly below `parent`, by path."""
        key = _scoped_key(principal, memory_id, kind)
        parent = normalise_scope(parent)
        rows = await (await self._stores.of(principal.group_id, kind)).scope_rows(key, parent)
        return await asyncio.to_thread(summarise_children, parent, rows)

    async def scope(self, principal: Principal, memory_id: str, kind: MemoryKind, path: str) -> ScopeInfo:
        """Return the figures of a scope and all below it."""
        key = _scoped_key(principal, memory_id, kind)
        path = normalise_scope(path)
        rows = await (await self._stores.of(principal.group_id, kind)).scope_rows(key, path)
        return await asyncio.to_thread(summarise_scope, path, rows)

    async def categories(
        self, principal: Principal, memory_id: str, kind: MemoryKind, prefix: str
    ) -> Mapping[str, int]:
        """Return how many records within a scope have each category."""
        key = _scoped_key(principal, memory_id, kind)
        store = await self._stores.of(principal.group_id, kind)
        counts: Counter[str] = Counter()
        for row in await store.scope_rows(key, normalise_scope(prefix)):
            for category in set(row.categories):
                counts[category] += row.record_count
        return counts

    async def traverse(
        self,
        principal: Principal,
        memory_id: str,
        kind: MemoryKind,
        start: str,
        relations: Collection[str],
        *,
        max_depth: int,
        limit: int,
    ) -> EntityGraph:
        """Follow the relationships of entities from one of them.

        Raises:
            InvalidArgument: the namespace does not hold entities.
            NotFound: nothing is known of the entity.
        """
        if kind is not MemoryKind.ENTITY:
            raise InvalidArgument.field("namespace.kind", f"{kind.name} records have no relationships")
        key = namespace_key(principal, memory_id, kind)
        filters.check_text(start, "start")
        store = await self._stores.of(principal.group_id, kind)
        graph = await traverse(store, key, start, relations, max_depth=max_depth, limit=limit, now=utc_now())
        if not graph.nodes[0].records:
            raise NotFound.of("entity", start)
        return graph

    async def namespaces(
        self, principal: Principal, limit: int, after: tuple[str, int] | None
    ) -> Sequence[NamespaceInfo]:
        """Return the group's namespaces, by crew and kind."""
        store = await self._stores.any_of(principal.group_id)
        return await store.namespaces(principal.group_id, limit, after)

    def memory_id(
        self,
        principal: Principal,
        *,
        agent_roles: Sequence[str],
        task_names: Sequence[str],
        crew_name: str,
        model: str,
        run_name: str,
    ) -> str:
        """Return the stable id of a crew of the principal's group."""
        return derive_memory_id(
            group_id=principal.group_id,
            agent_roles=agent_roles,
            task_names=task_names,
            crew_name=crew_name,
            model=model,
            run_name=run_name,
        )


def namespace_key(principal: Principal, memory_id: str, kind: MemoryKind) -> NamespaceKey:
    """Return the key of a namespace of the principal's group.

    Raises:
        InvalidArgument: the crew is missing, or named for documents.
    """
    if kind is MemoryKind.DOCUMENT and memory_id:
        raise InvalidArgument.field("namespace.memory_id", "documents belong to the whole group: leave it empty")
    if kind is not MemoryKind.DOCUMENT and not memory_id:
        raise InvalidArgument.field("namespace.memory_id", "is empty; DeriveMemoryId computes it")
    filters.check_text(memory_id, "namespace.memory_id")
    return NamespaceKey(principal.group_id, memory_id, kind)


def list_position(principal: Principal, memory_id: str, kind: MemoryKind, record: Record) -> ListPosition:
    """Return the sort key of a stored record, from which a list goes on."""
    assert record.created_at is not None
    stored_id = namespace_key(principal, memory_id, kind).stored_id(record.id)
    return ListPosition(microseconds(record.created_at), stored_id)


def search_position(principal: Principal, memory_id: str, kind: MemoryKind, found: Found, rank: int) -> SearchPosition:
    """Return the place of a result, the `rank`th of all pages so far, from which a search goes on."""
    return SearchPosition(found.score, namespace_key(principal, memory_id, kind).stored_id(found.record.id), rank)


def _scoped_key(principal: Principal, memory_id: str, kind: MemoryKind) -> NamespaceKey:
    if kind is not MemoryKind.UNIFIED:
        raise InvalidArgument.field("namespace.kind", f"{kind.name} records have no scopes")
    return namespace_key(principal, memory_id, kind)


def _check_privacy(principal: Principal, chosen: Filter) -> None:
    if chosen.include_private and principal.role < Role.EDITOR:
        raise PermissionDenied(
            f"filter.include_private needs the role EDITOR; you are {principal.role.name} of this group",
            reason="ROLE_REQUIRED",
            metadata={"required": Role.EDITOR.name, "actual": principal.role.name},
        )


def query_vector(values: npt.ArrayLike, path: str) -> Vector:
    """Return a client's vector at unit length.

    Raises:
        InvalidArgument: it is not finite or has no direction.
    """
    try:
        return unit_vector(values)
    except ValueError as error:
        raise InvalidArgument.field(path, str(error)) from None
