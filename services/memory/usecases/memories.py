"""Saving and finding memories in any store."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from services.common.clock import utc_now
from services.common.errors import InvalidArgument, NotFound
from services.common.identity.principal import Principal, Role
from services.common.paging import PAGE_BYTES, page_size
from services.memory import filters
from services.memory.domain.filters import Filter
from services.memory.domain.listings import RecordPage, Tally
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.owners import assign_owner, listed_for, named_for, require_editor
from services.memory.domain.records import MemoryKind, Record, ShortTerm
from services.memory.domain.saves import SavedRecord
from services.memory.domain.searches import Query, Ranking, Reranking, SearchMode, SearchOutcome
from services.memory.domain.vectors import EmbeddingSpace, Vector, embedding_mismatch, unit_vector
from services.memory.domain.words import Term, terms_of
from services.memory.embedding import Embedder
from services.memory.rows.columns import Column, has_column
from services.memory.stores.base import KeepsHistory, MemoryStore
from services.memory.stores.group_stores import BackendStores
from services.memory.usecases.document_parts import DocumentParts
from services.memory.usecases.document_repairs import DocumentRepairs
from services.memory.usecases.namespaces import namespace_key
from services.memory.usecases.ranked_search import CANDIDATES, OneNamespace, search_by_rank
from services.memory.usecases.record_checks import check_kinds, check_revisions, count_replaced
from services.memory.usecases.record_history import RecordHistory
from services.memory.usecases.record_pages import ENVELOPE_BYTES, ListPages, SearchPages, fitting
from services.memory.usecases.record_quota import RecordQuota
from services.memory.usecases.reranking import check_reranking, reranker_of

DEFAULT_LIMIT = 10
NO_VECTOR: Vector = np.empty(0, dtype=np.float32)
"""Of searches that compare none."""


@dataclass(frozen=True, slots=True)
class SearchInput:
    """What a search looks for, by a text or by a vector, and which page of it."""

    text: str
    vector: npt.ArrayLike | None
    mode: SearchMode
    filter: Filter
    limit: int
    """0 means 10."""
    min_score: float | None
    ranking: Ranking | None
    diversity: float | None
    """From 0 to 1; None is off."""
    include_embeddings: bool
    page_token: str
    fingerprint: str
    """Hash of everything that pages of the same search have in common."""
    reranking: Reranking | None = None
    """None is off."""


@dataclass(frozen=True, slots=True)
class ListInput:
    """Which records to list, and which page of them."""

    filter: Filter
    page_size: int
    page_token: str
    include_embeddings: bool
    fingerprint: str
    """Hash of the filter."""


class Memories:
    """Every operation is the calling principal's group's own: its id is never taken from a request."""

    def __init__(
        self,
        stores: BackendStores,
        embedder: Embedder,
        documents: DocumentParts,
        repairs: DocumentRepairs,
        history: RecordHistory,
        quota: RecordQuota,
        *,
        default_model: str,
        short_term_ttl_hours: int,
        max_message_bytes: int,
    ) -> None:
        """`default_model` embeds new namespaces; empty means the default of models."""
        self._stores = stores
        self._embedder = embedder
        self._documents = documents
        self._repairs = repairs
        self._history = history
        self._quota = quota
        self._default_model = default_model
        self._short_term_ttl_hours = short_term_ttl_hours
        self._max_bytes = max_message_bytes - ENVELOPE_BYTES

    async def save(
        self,
        principal: Principal,
        memory_id: str,
        kind: MemoryKind,
        records: Sequence[Record],
        model: str,
        crew_name: str,
        near_copies: float = 0.0,
    ) -> Sequence[SavedRecord]:
        """Store records, embedding those that have no vector, and return what became of each.

        A record without an id touches the one that is the same memory, if there is one, or replaces the text of one
        that is as similar as `near_copies` (0: off). An empty model means the namespace's.

        The crew's name is kept with the namespace, and labels what embedding uses, unless it is empty.

        Raises:
            InvalidArgument: a record is of another kind, or their vectors differ in length.
            FailedPrecondition: the vectors do not belong into the namespace's space, a revision is expected of a
                store that cannot compare it, or a record names a document that is there and is none of its parts.
            PermissionDenied: a record has the id of somebody else's private one.
            Aborted: a record is not at the revision that is expected, or its document has been saved meanwhile.
            ResourceExhausted: QUOTA_EXCEEDED, the group would have more records than it may.
        """
        key = namespace_key(principal, memory_id, kind)
        check_kinds(kind, records, near_copies)
        for record in records:
            if isinstance(record.body, ShortTerm) and record.body.ttl_hours == 0:
                record.body.ttl_hours = self._short_term_ttl_hours
            assign_owner(record, principal)
        store = await self._stores.of(principal.group_id, kind)
        check_revisions(store, records)
        async with self._quota.room_for(principal, store, len(records), lambda: count_replaced(store, key, records)):
            existing = await store.space(key)
            space = await self._embed(existing, records, model, crew_name)
            named = await self._documents.named(principal, store, records) if kind is MemoryKind.DOCUMENT else ()
            options: dict[str, Any] = {"crew_name": crew_name, "near_copies": near_copies}
            if isinstance(store, KeepsHistory):
                options["keeping"] = await self._history.keeping(principal)
            async with self._documents.noting(key, store, named, records) as switch:
                if switch:
                    options["switch"] = switch
                saved = await store.save(key, space, records, utc_now(), **options)
        if named:
            self._repairs.start(store, key)
        return saved

    async def _embed(
        self, existing: EmbeddingSpace | None, records: Sequence[Record], model: str, crew_name: str
    ) -> EmbeddingSpace:
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
            expected.model if expected else model or self._default_model, [record.text for record in bare], crew_name
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

    async def search(
        self, principal: Principal, memory_id: str, kind: MemoryKind, search: SearchInput, crew_name: str = ""
    ) -> tuple[SearchOutcome, str]:
        """Return the best records, best first, and the token of the next page.

        The crew's name labels what embedding the text uses, unless it is empty.

        Raises:
            InvalidArgument: the vector has no direction, the ranking does not fit the kind, the mode does not fit what
                else is requested, or the token is of another search.
            FailedPrecondition: the group's store cannot look for words, or has no model to put results in order.
            PermissionDenied: private records are requested without the role EDITOR.
        """
        key = namespace_key(principal, memory_id, kind)
        pages = SearchPages(key, search.fingerprint)
        after, asked_at = pages.position(search.page_token)
        chosen = listed_for(principal, search.filter)
        if search.ranking and search.ranking.importance_weight and not has_column(kind, Column.IMPORTANCE):
            raise no_importance(kind)
        terms = search_terms(search)
        if search.reranking is not None:
            check_reranking(search, kind)
        vector = None if search.vector is None else query_vector(search.vector, "vector.values")
        if search.mode is SearchMode.TEXT:
            vector = NO_VECTOR
        store = await self._stores.of(principal.group_id, kind)
        rerank = None if search.reranking is None else reranker_of(store, key, search.reranking)
        if vector is None:
            space = await store.space(key)
            if space is None:
                return SearchOutcome(), ""
            vector = (await self._embedder.embed(space.model, [search.text], crew_name)).vectors[0]
        query = Query(
            vector=vector,
            limit=search.limit or DEFAULT_LIMIT,
            filter=chosen,
            min_score=search.min_score,
            ranking=search.ranking,
            include_embeddings=search.include_embeddings,
            after=after,
            asked_at=asked_at,
        )
        by_rank = search.mode is not SearchMode.VECTOR or search.diversity is not None or rerank is not None
        outcome = (
            await search_by_rank(
                OneNamespace(store, key, utc_now()),
                query,
                mode=search.mode,
                terms=terms,
                text=search.text,
                diversity=search.diversity,
                rerank=rerank,
            )
            if by_rank
            else await store.search(key, query, utc_now())
        )
        shown = outcome.results[: fitting([found.record for found in outcome.results], self._max_bytes)]
        more = outcome.cut or len(shown) < len(outcome.results) or len(shown) == query.limit
        if not more or not shown:
            return outcome, ""
        rank = len(shown) + (after.rank if after else 0)
        last = replace(shown[-1], score=0.0) if by_rank else shown[-1]
        return replace(outcome, results=shown), pages.token_after(last, rank, asked_at)

    async def get(
        self, principal: Principal, memory_id: str, kind: MemoryKind, record_id: str, seen: Filter, *, embedding: bool
    ) -> Record:
        """Return one record; the filter says which private ones are asked for.

        Raises:
            NotFound: the namespace has none of that id.
            PermissionDenied: private records of everybody are asked for without the role EDITOR.
        """
        key = namespace_key(principal, memory_id, kind)
        store = await self._stores.of(principal.group_id, kind)
        chosen = named_for(principal, seen)
        found = await store.get(key, [record_id], utc_now(), embeddings=embedding, chosen=chosen)
        if not found:
            raise NotFound.of("memory", record_id)
        return found[0]

    async def page(
        self, principal: Principal, memory_id: str, kind: MemoryKind, listing: ListInput
    ) -> tuple[RecordPage, str]:
        """Return the next records, newest first, and the token of the next page; fewer where records are long.

        Raises:
            InvalidArgument: the token is of another list.
            PermissionDenied: private records are requested without the role EDITOR.
        """
        key = namespace_key(principal, memory_id, kind)
        pages = ListPages(key, listing.fingerprint)
        after = pages.position(listing.page_token)
        chosen = listed_for(principal, listing.filter)
        store = await self._stores.of(principal.group_id, kind)
        # Stores cut pages themselves: they know how long records are before they read them.
        page = await store.page(
            key, chosen, page_size(listing.page_size), after, utc_now(), embeddings=listing.include_embeddings
        )
        shown = page.records[: fitting(page.records, min(PAGE_BYTES, self._max_bytes))]
        if len(shown) < len(page.records):
            return replace(page, records=shown), pages.token_after(shown[-1])
        if not page.more:
            return page, ""
        return page, pages.token_at(page.last) if page.last else pages.token_after(shown[-1])

    async def delete(
        self,
        principal: Principal,
        memory_id: str,
        kind: MemoryKind,
        ids: Sequence[str],
        chosen: Filter | None,
        *,
        purge_history: bool = False,
    ) -> tuple[int, int]:
        """Remove records by id, by filter, or by both; return how many, and for how many days the history keeps them.

        With `purge_history` it keeps none of them, nor what it kept before.

        Raises:
            InvalidArgument: neither is given.
            PermissionDenied: the role EDITOR is missing to remove everything, or private records of everybody.
        """
        key = namespace_key(principal, memory_id, kind)
        if chosen is None and not ids:
            raise InvalidArgument.field("ids", "select the records by ids or by a filter")
        store = await self._stores.of(principal.group_id, kind)
        if ids:
            selected = named_for(principal, chosen or Filter())
        else:
            selected = listed_for(principal, chosen or Filter())
            if filters.is_empty(selected):
                raise InvalidArgument.field("filter", "selects everything; call ClearNamespace to remove every record")
            if principal.role < Role.EDITOR and await self._selects_all(store, key, selected):
                require_editor(principal, "removing every record of a namespace")
        if isinstance(store, KeepsHistory):
            keeping = await self._history.keeping(principal, purge=purge_history)
            deleted = await store.delete(key, ids or None, selected, utc_now(), keeping=keeping)
        else:
            deleted = await store.delete(key, ids or None, selected, utc_now())
        kept = bool(deleted) and not purge_history
        return deleted, await self._history.kept_days(principal, store, kind) if kept else 0

    async def _selects_all(self, store: MemoryStore, key: NamespaceKey, chosen: Filter) -> bool:
        """Return whether a filter leaves nothing of what its caller sees; scopes and labels never count as such."""
        narrowing = replace(chosen, scope_prefix="") if chosen.scope_prefix == "/" else chosen
        if filters.is_empty(narrowing):
            return True
        if narrowing.scope_prefix or narrowing.categories or narrowing.all_categories or narrowing.metadata:
            return False
        now = utc_now()
        visible = (await store.count(key, filters.visibility(chosen), now)).count
        return 0 < visible <= (await store.count(key, chosen, now)).count

    async def count(self, principal: Principal, memory_id: str, kind: MemoryKind, chosen: Filter) -> Tally:
        """Return how many records match."""
        key = namespace_key(principal, memory_id, kind)
        store = await self._stores.of(principal.group_id, kind)
        return await store.count(key, listed_for(principal, chosen), utc_now())

    async def touch(
        self, principal: Principal, memory_id: str, kind: MemoryKind, ids: Sequence[str], source: str
    ) -> int:
        """Set the time of last access to now, and return how many records there were.

        Raises:
            InvalidArgument: the kind does not record it.
        """
        key = namespace_key(principal, memory_id, kind)
        if not has_column(kind, Column.LAST_ACCESSED):
            raise InvalidArgument.field("namespace.kind", f"{kind.name} records have no time of last access")
        store = await self._stores.of(principal.group_id, kind)
        return await store.touch(key, ids, utc_now(), chosen=named_for(principal, Filter(source=source)))


def no_importance(kind: MemoryKind) -> InvalidArgument:
    """Return the refusal to rank records of a kind by what it does not have."""
    return InvalidArgument.field("ranking.importance_weight", f"{kind.name} records have no importance")


def search_terms(search: SearchInput) -> Sequence[Term]:
    """Return what a search looks for by words: nothing where it does not.

    Raises:
        InvalidArgument: what is requested beside the mode does not fit it.
    """
    mode = search.mode
    if (mode is SearchMode.HYBRID or search.diversity is not None) and search.limit > CANDIDATES:
        what = "diversity" if search.diversity is not None else f"mode {mode}"
        raise InvalidArgument.field("limit", f"is at most {CANDIDATES} with {what}; it is {search.limit:,}")
    if mode is SearchMode.VECTOR:
        return ()
    if search.vector is not None:
        raise InvalidArgument.field("vector", f"has no words to look for; with mode {mode} send a text")
    if search.ranking is not None:
        raise InvalidArgument.field("ranking", f"weighs similarities; with mode {mode} leave it out")
    terms = terms_of(search.text)
    if mode is SearchMode.TEXT:
        if search.min_score is not None:
            raise InvalidArgument.field("min_score", "bounds similarities, which mode TEXT does not compute")
        if not terms:
            raise InvalidArgument.field("text", "has no word to look for: a word has letters or digits")
    return terms


def query_vector(values: npt.ArrayLike, path: str) -> Vector:
    """Return a client's vector at unit length.

    Raises:
        InvalidArgument: it is not finite or has no direction.
    """
    try:
        return unit_vector(values)
    except ValueError as error:
        raise InvalidArgument.field(path, str(error)) from None
