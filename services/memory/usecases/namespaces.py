"""What a group's namespaces hold: their scopes, categories and entities, and themselves."""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from services.common.clock import utc_now
from services.common.errors import InvalidArgument, NotFound
from services.common.identity.principal import Principal
from services.common.ids import is_id
from services.common.paging import Page, Pager, bad_page_token
from services.memory.domain.namespaces import NamespaceInfo, NamespaceKey, derive_memory_id
from services.memory.domain.records import MemoryKind
from services.memory.domain.scopes import (
    ScopeInfo,
    count_categories,
    normalise_scope,
    summarise_children,
    summarise_scope,
)
from services.memory.stores.group_stores import BackendStores
from services.memory.usecases.document_parts import DocumentParts
from services.memory.usecases.entity_graph import EntityGraph, traverse, within_message
from services.memory.usecases.record_pages import ENVELOPE_BYTES

_DEFAULT_DEPTH = 2
_DEFAULT_ENTITIES = 100
_TEXT_BYTES = 64
"""What each scope or category adds to a message beside its text, at most."""
_NAMESPACES = Pager("namespaces", key_types=(str, str))


class Namespaces:
    """Every operation is the calling principal's group's own: its id is never taken from a request."""

    def __init__(self, stores: BackendStores, documents: DocumentParts, *, max_message_bytes: int) -> None:
        self._stores = stores
        self._documents = documents
        self._max_bytes = max_message_bytes - ENVELOPE_BYTES

    async def clear(self, principal: Principal, memory_id: str, kind: MemoryKind) -> int:
        """Remove every record of a namespace and its embedding model, and return how many records there were."""
        key = namespace_key(principal, memory_id, kind)
        store = await self._stores.of(principal.group_id, kind)
        return await (self._documents.clear(store, key) if kind is MemoryKind.DOCUMENT else store.clear(key))

    async def child_scopes(
        self, principal: Principal, memory_id: str, kind: MemoryKind, parent: str
    ) -> Sequence[ScopeInfo]:
        """Return the scopes directly below `parent`, by path."""
        key = _scoped_key(principal, memory_id, kind)
        parent = normalise_scope(parent)
        rows = await (await self._stores.of(principal.group_id, kind)).scope_rows(key, parent, utc_now())
        scopes = await asyncio.to_thread(summarise_children, parent, rows)
        self._check_size("parent", (text for scope in scopes for text in _texts_of(scope)))
        return scopes

    async def scope(self, principal: Principal, memory_id: str, kind: MemoryKind, path: str) -> ScopeInfo:
        """Return the figures of a scope and all below it."""
        key = _scoped_key(principal, memory_id, kind)
        path = normalise_scope(path)
        rows = await (await self._stores.of(principal.group_id, kind)).scope_rows(key, path, utc_now())
        scope = await asyncio.to_thread(summarise_scope, path, rows)
        self._check_size("path", _texts_of(scope))
        return scope

    async def categories(
        self, principal: Principal, memory_id: str, kind: MemoryKind, prefix: str
    ) -> Mapping[str, int]:
        """Return how many records within a scope have each category."""
        key = _scoped_key(principal, memory_id, kind)
        store = await self._stores.of(principal.group_id, kind)
        rows = await store.scope_rows(key, normalise_scope(prefix), utc_now())
        counts = await asyncio.to_thread(count_categories, rows)
        self._check_size("scope_prefix", counts)
        return counts

    def _check_size(self, field: str, texts: Iterable[str]) -> None:
        if sum(len(text.encode()) + _TEXT_BYTES for text in texts) > self._max_bytes:
            raise InvalidArgument.field(
                field, "the scopes and categories below it do not fit in a message; name a deeper scope"
            )

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
        """Follow the relationships of entities from one of them; 0 means 2 steps and 100 entities.

        Raises:
            InvalidArgument: the namespace does not hold entities, or the relationships do not fit in a message.
            NotFound: the entity is not known.
        """
        if kind is not MemoryKind.ENTITY:
            raise InvalidArgument.field("namespace.kind", f"{kind.name} records have no relationships")
        key = namespace_key(principal, memory_id, kind)
        store = await self._stores.of(principal.group_id, kind)
        graph = await traverse(
            store,
            key,
            start,
            relations,
            max_depth=max_depth or _DEFAULT_DEPTH,
            limit=limit or _DEFAULT_ENTITIES,
            now=utc_now(),
        )
        if not graph.nodes[0].records:
            raise NotFound.of("entity", start)
        return within_message(graph, self._max_bytes)

    async def page(self, principal: Principal, requested_size: int, page_token: str) -> Page[NamespaceInfo]:
        """Return one page of the group's namespaces, sorted by memory id and kind.

        Raises:
            InvalidArgument: the token is not of this listing.
        """
        store = await self._stores.any_of(principal.group_id)

        async def read(after: list[Any] | None, limit: int) -> Sequence[NamespaceInfo]:
            return await store.namespaces(principal.group_id, limit, _namespace_position(after) if after else None)

        return await _NAMESPACES.page(
            requested_size,
            page_token,
            {"group": principal.group_id},
            read,
            lambda info: [info.key.memory_id, info.key.kind.name],
        )

    def memory_id(
        self,
        principal: Principal,
        *,
        agent_roles: Sequence[str],
        task_names: Sequence[str],
        crew_name: str,
        model: str,
        run_name: str,
        memory_name: str,
    ) -> str:
        """Return the stable id of a crew's memory in the principal's group."""
        return derive_memory_id(
            group_id=principal.group_id,
            agent_roles=agent_roles,
            task_names=task_names,
            crew_name=crew_name,
            model=model,
            run_name=run_name,
            memory_name=memory_name,
        )


def namespace_key(principal: Principal, memory_id: str, kind: MemoryKind) -> NamespaceKey:
    """Return the key of a namespace of the principal's group.

    Raises:
        InvalidArgument: the crew is missing, or named for documents.
    """
    if kind is MemoryKind.DOCUMENT and memory_id:
        raise InvalidArgument.field("namespace.memory_id", "documents belong to the whole group: leave it empty")
    if kind is not MemoryKind.DOCUMENT and not memory_id:
        raise InvalidArgument.field("namespace.memory_id", "is empty; GetCrew returns the memory_id of a stored crew")
    check_memory_id(memory_id, "namespace.memory_id")
    return NamespaceKey(principal.group_id, memory_id, kind)


def check_memory_id(memory_id: str, path: str) -> None:
    """Refuse the id of a stored crew, under which no memories are ever stored.

    Raises:
        InvalidArgument: it is a UUID.
    """
    if is_id(memory_id):
        raise InvalidArgument.field(
            path, "this looks like a stored crew's id; use the crew's memory_id, which GetCrew returns"
        )


def _texts_of(scope: ScopeInfo) -> Iterator[str]:
    yield scope.path
    yield from scope.categories
    yield from scope.child_scopes


def _namespace_position(after: list[Any]) -> tuple[str, MemoryKind]:
    memory_id, kind = after
    if kind not in MemoryKind.__members__:
        raise bad_page_token()
    return memory_id, MemoryKind[kind]


def _scoped_key(principal: Principal, memory_id: str, kind: MemoryKind) -> NamespaceKey:
    if kind is not MemoryKind.UNIFIED:
        raise InvalidArgument.field("namespace.kind", f"{kind.name} records have no scopes")
    return namespace_key(principal, memory_id, kind)
