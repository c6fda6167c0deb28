"""Several searches in one call, each over many namespaces of a group, with one ranking."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Final

from services.common.clock import utc_now
from services.common.errors import CoxswainError, FieldViolation, InvalidArgument
from services.common.identity.principal import Principal
from services.common.paging import bad_page_token, decode_page_token, encode_page_token
from services.memory.domain.filters import Filter
from services.memory.domain.namespaces import NamespaceInfo, NamespaceKey
from services.memory.domain.owners import listed_for
from services.memory.domain.records import MemoryKind
from services.memory.domain.searches import Query, SearchMode
from services.memory.domain.vectors import EmbeddingSpace, Vector, embedding_mismatch
from services.memory.domain.words import Term
from services.memory.embedding import Embedder
from services.memory.rows.columns import Column, has_column
from services.memory.stores.base import MemoryStore
from services.memory.stores.group_stores import BackendStores
from services.memory.usecases.batch_answers import Answer, Fitting, Placed, in_turn, within_message
from services.memory.usecases.memories import (
    DEFAULT_LIMIT,
    NO_VECTOR,
    SearchInput,
    no_importance,
    query_vector,
    search_terms,
)
from services.memory.usecases.merged_search import Problems, SeveralNamespaces, all_of
from services.memory.usecases.namespaces import namespace_key
from services.memory.usecases.ranked_search import search_by_rank
from services.memory.usecases.record_pages import ENVELOPE_BYTES

_AT_ONCE: Final = 8
"""Namespaces that one call searches at the same time."""
_NAMESPACES: Final = 100
"""Namespaces of the group that one query searches."""
_MOST_LISTED = 1000
"""Namespaces that are gone through for them: a group may have many of other kinds."""
_ALL_NAMESPACES = "namespaces of a search"


@dataclass(frozen=True, slots=True)
class QueryInput:
    """One search and what it is over: the namespaces that are named, or else those that the group has."""

    search: SearchInput
    """Its filter does not count: see `filters`."""
    filters: Mapping[MemoryKind, Filter]
    """The filter, as each kind takes it."""
    refused: Mapping[MemoryKind, InvalidArgument]
    """What of the filter a kind does not have."""
    namespaces: Sequence[tuple[str, MemoryKind]]
    """Memory ids and kinds."""
    kinds: frozenset[MemoryKind]
    """Of all the group's, only namespaces of these."""
    page_token: str
    embedding_model: str
    """Where the vector comes from; empty means that its length decides alone."""


@dataclass(slots=True)
class _Prepared:
    """A query whose namespaces are known."""

    query: QueryInput
    terms: Sequence[Term]
    vector: Vector | None
    """None where the text is embedded."""
    filters: Mapping[MemoryKind, Filter]
    next_token: str
    store: MemoryStore | None = None
    """That of the group; None while nothing is known to be there."""
    spaces: dict[EmbeddingSpace, list[NamespaceInfo]] = field(default_factory=dict)
    """The namespaces to search."""
    problems: Problems = field(default_factory=Problems)

    def place(self, store: MemoryStore, info: NamespaceInfo) -> None:
        """Note a namespace as one to search, unless the vector is of another space."""
        space, model = info.space, self.query.embedding_model
        given = None if self.query.search.vector is None else self.vector
        if given is not None and (model not in ("", space.model) or len(given) != space.dimension):
            self.problems.note([info.key], embedding_mismatch(space, model, len(given)))
            return
        self.store = store
        self.spaces.setdefault(space, []).append(info)

    def drop(self, model: str, error: CoxswainError) -> None:
        """Note that the namespaces of a model cannot be searched."""
        if self.vector is None:
            for space in [space for space in self.spaces if space.model == model]:
                self.problems.note([info.key for info in self.spaces.pop(space)], error)

    @property
    def searched_together(self) -> Sequence[tuple[EmbeddingSpace, Sequence[NamespaceInfo]]]:
        """The namespaces whose results have comparable scores; words know of no spaces."""
        if self.query.search.mode is not SearchMode.TEXT or len(self.spaces) < 2:
            return list(self.spaces.items())
        return [(next(iter(self.spaces)), [info for infos in self.spaces.values() for info in infos])]


class BatchSearches:
    """Searches of the calling principal's group, over its own namespaces alone."""

    def __init__(self, stores: BackendStores, embedder: Embedder, *, max_message_bytes: int) -> None:
        self._stores = stores
        self._embedder = embedder
        self._max_bytes = max_message_bytes - ENVELOPE_BYTES

    async def search(self, principal: Principal, queries: Sequence[QueryInput], crew_name: str) -> Sequence[Answer]:
        """Answer each query. The crew's name labels what embedding the texts uses, unless it is empty.

        Raises:
            InvalidArgument: a query cannot be answered in any namespace; the path of the field begins with the query's.
            PermissionDenied: private records are requested without the role EDITOR.
            CoxswainError: what all of it needs fails.
        """
        prepared: list[_Prepared] = []
        for position, query in enumerate(queries):
            with naming_query(position):
                prepared.append(await self._prepare(principal, query))
        vectors = await self._embed(prepared, crew_name)
        gate, now = asyncio.Semaphore(_AT_ONCE), utc_now()
        answers = [await self._answer(query, vectors, now, gate) for query in prepared]
        return within_message(answers, self._max_bytes)

    async def _prepare(self, principal: Principal, query: QueryInput) -> _Prepared:
        filters, refused = _filters(principal, query)
        search = query.search
        terms = search_terms(search)
        vector = None if search.vector is None else query_vector(search.vector, "vector.values")
        if search.mode is SearchMode.TEXT:
            vector = NO_VECTOR
        keys, listed, next_token = await self._namespaces(principal, query)
        prepared = _Prepared(query, terms, vector, filters, next_token)
        by_kind: dict[MemoryKind, list[NamespaceKey]] = defaultdict(list)
        for key in keys:
            by_kind[key.kind].append(key)
        for kind, of_kind in by_kind.items():
            try:
                if kind in refused:
                    raise refused[kind]
                store = await self._stores.of(principal.group_id, kind)
                infos = listed or await store.describe(of_kind)
            except CoxswainError as error:
                prepared.problems.note(of_kind, error)
                continue
            # Those that were never written to have nothing to find.
            for info in (infos[key] for key in of_kind if key in infos):
                prepared.place(store, info)
        return prepared

    async def _namespaces(
        self, principal: Principal, query: QueryInput
    ) -> tuple[Sequence[NamespaceKey], Mapping[NamespaceKey, NamespaceInfo], str]:
        """Return a query's namespaces, what is known of them where they were listed, and where the list goes on."""
        if query.namespaces:
            keys: list[NamespaceKey] = []
            for position, (memory_id, kind) in enumerate(query.namespaces):
                with _naming_namespace(position):
                    keys.append(namespace_key(principal, memory_id, kind))
            return list(dict.fromkeys(keys)), {}, ""
        store = await self._stores.any_of(principal.group_id)
        identity = {"group": principal.group_id, "kinds": sorted(kind.name for kind in query.kinds)}
        with _renaming(lambda path: f"all_namespaces.{path}"):
            after = _position(query.page_token, identity)
        found: dict[NamespaceKey, NamespaceInfo] = {}
        listed = 0
        while True:
            page = await store.namespaces(principal.group_id, _NAMESPACES + 1, after, counted=False)
            for place, info in enumerate(page[:_NAMESPACES]):
                after = info.key.memory_id, info.key.kind
                if info.key.kind in query.kinds:
                    found[info.key] = info
                more = place + 1 < len(page)
                if more and len(found) == _NAMESPACES:
                    return list(found), found, encode_page_token(_ALL_NAMESPACES, identity, [after[0], after[1].name])
            listed += _NAMESPACES
            if len(page) <= _NAMESPACES:
                return list(found), found, ""
            if listed >= _MOST_LISTED and after:
                return list(found), found, encode_page_token(_ALL_NAMESPACES, identity, [after[0], after[1].name])

    async def _embed(self, prepared: Sequence[_Prepared], crew_name: str) -> Mapping[tuple[str, str], Vector]:
        """Return the vectors of texts by model and text, from one call for each model.

        What a model refuses is a problem of its namespaces.
        """
        wanted: dict[str, dict[str, None]] = {}
        for query in prepared:
            if query.vector is None:
                for space in query.spaces:
                    wanted.setdefault(space.model, {})[query.query.search.text] = None
        vectors: dict[tuple[str, str], Vector] = {}

        async def embed(model: str, texts: Sequence[str]) -> None:
            try:
                embedded = await self._embedder.embed(model, texts, crew_name)
            except CoxswainError as error:
                for query in prepared:
                    query.drop(model, error)
            else:
                vectors.update(((model, text), vector) for text, vector in zip(texts, embedded.vectors, strict=True))

        await all_of([embed(model, list(texts)) for model, texts in wanted.items()])
        return vectors

    async def _answer(
        self,
        prepared: _Prepared,
        vectors: Mapping[tuple[str, str], Vector],
        now: datetime,
        gate: asyncio.Semaphore,
    ) -> Answer:
        search = prepared.query.search
        limit = search.limit or DEFAULT_LIMIT
        found: list[Fitting] = []
        answer = Answer(next_token=prepared.next_token)
        for space, infos in prepared.searched_together:
            assert prepared.store is not None
            by_key = {info.key: info for info in infos}
            searched = SeveralNamespaces(prepared.store, list(by_key), prepared.filters, now, gate, prepared.problems)
            query = Query(
                vector=vectors[space.model, search.text] if prepared.vector is None else prepared.vector,
                limit=limit,
                min_score=search.min_score,
                ranking=search.ranking,
                include_embeddings=search.include_embeddings,
                asked_at=now,
            )
            outcome = await search_by_rank(
                searched, query, mode=search.mode, terms=prepared.terms, text=search.text, diversity=search.diversity
            )
            # At once: the results of all spaces and queries together would be many messages.
            placed = Fitting.of(
                (Placed.of(result, by_key[key]) for result in outcome.results if (key := result.key)), self._max_bytes
            )
            if outcome.results:
                found.append(placed)
            answer = replace(
                answer,
                by_rank=search.mode is SearchMode.TEXT and not searched.words_are_comparable,
                cut=answer.cut or placed.cut or (outcome.cut and len(outcome.results) < limit),
                truncated=answer.truncated or outcome.truncated,
                scanned=answer.scanned + outcome.scanned,
                unreadable=answer.unreadable + outcome.unreadable,
            )
        within = Fitting.of(islice(in_turn(found), limit), self._max_bytes)
        return replace(
            answer,
            results=within.results,
            cut=answer.cut or within.cut,
            by_rank=answer.by_rank or len(found) > 1,
            problems={problem: list(keys) for problem, keys in prepared.problems.keys.items()},
        )


def _filters(
    principal: Principal, query: QueryInput
) -> tuple[Mapping[MemoryKind, Filter], Mapping[MemoryKind, InvalidArgument]]:
    """Return the filters as the caller may use them, and why other kinds cannot be searched.

    Raises:
        InvalidArgument: no kind has what the query asks for.
        PermissionDenied: private records are requested without the role EDITOR.
    """
    filters = {kind: listed_for(principal, chosen) for kind, chosen in query.filters.items()}
    refused = dict(query.refused)
    if query.search.ranking and query.search.ranking.importance_weight:
        for kind in [kind for kind in filters if not has_column(kind, Column.IMPORTANCE)]:
            del filters[kind]
            refused[kind] = no_importance(kind)
    if not filters:
        raise next(iter(refused.values()))
    return filters, refused


def _position(token: str, identity: Mapping[str, object]) -> tuple[str, MemoryKind] | None:
    match decode_page_token(token, _ALL_NAMESPACES, identity):
        case None:
            return None
        case [str(memory_id), str(name)] if name in MemoryKind.__members__:
            return memory_id, MemoryKind[name]
        case _:
            raise bad_page_token()


@contextlib.contextmanager
def naming_query(position: int) -> Iterator[None]:
    """Put a query's place in the request before the paths of the fields that are refused."""
    with _renaming(lambda path: f"queries[{position}].{path}"):
        yield


def _naming_namespace(position: int) -> contextlib.AbstractContextManager[None]:
    return _renaming(lambda path: path.replace("namespace.", f"namespaces[{position}].", 1))


@contextlib.contextmanager
def _renaming(rename: Callable[[str], str]) -> Iterator[None]:
    try:
        yield
    except InvalidArgument as error:
        if not error.violations:
            raise
        violations = [FieldViolation(rename(v.field), v.description) for v in error.violations]
        raise InvalidArgument.fields(violations, reason=error.reason) from None
