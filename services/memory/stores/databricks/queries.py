"""Queries of an index: in the language of its endpoint, page by page."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from services.common.errors import CoxswainError, FailedPrecondition
from services.memory.domain.vectors import Vector
from services.memory.rows.row import Row
from services.memory.stores.databricks.client import VectorSearchClient
from services.memory.stores.databricks.descriptions import ResourceState
from services.memory.stores.databricks.endpoint_types import EndpointTypes, IndexShape, Location
from services.memory.stores.databricks.filter_language import Clause, query_filter
from services.memory.stores.databricks.resources import WorkspaceResources
from services.memory.stores.databricks.upstream_errors import bad_answer, index_missing
from services.memory.stores.databricks.wire import Json, QueryPage, encode_vector, zeros

MAX_RESULTS = 10_000
"""What one query can return."""

_MOST_PAGES = 100
"""Pages of one query, ten times as many as are needed."""
MAX_WORD_RESULTS = 200
"""What one query for words can return."""


@dataclass(frozen=True, slots=True)
class IndexQueries:
    """The queries of one location."""

    client: VectorSearchClient
    location: Location
    endpoint_types: EndpointTypes
    resources: WorkspaceResources

    async def rows(
        self,
        index: str,
        clauses: Sequence[Clause],
        vector: Vector | None,
        limit: int,
        *,
        columns: Sequence[str],
        threshold: float | None = None,
    ) -> AsyncIterator[Row]:
        """Yield the rows of a query and of all its pages; without a vector their order means nothing.

        With a threshold only those of at least this score.
        """
        values = zeros((await self.shape(index)).dimension) if vector is None else encode_vector(vector)
        body: Json = {"columns": list(columns), "num_results": limit}
        if threshold is not None:
            body["score_threshold"] = threshold
        async for row in self._pages(index, body, clauses, values, scored=vector is not None):
            yield row

    async def rows_with_words(
        self,
        index: str,
        clauses: Sequence[Clause],
        text: str,
        *,
        within: Sequence[str],
        columns: Sequence[str],
    ) -> AsyncIterator[Row]:
        """Yield the rows that have words of a text in the columns `within`: at most `MAX_WORD_RESULTS`.

        Which ones these are where there are more, and in which order, depends on all rows of the index.
        """
        # Not a literal: the field of the text has the name of a column, of which only schemas and rows may speak.
        body: Json = dict(columns=list(columns), num_results=MAX_WORD_RESULTS, query_type="FULL_TEXT", query_text=text)  # noqa: C408
        # Otherwise all text columns are searched: ids of groups, and the envelope with the owners of private records.
        body["query_columns"] = list(within)
        async for row in self._pages(index, body, clauses, ""):
            yield row

    async def reranked(
        self,
        index: str,
        clauses: Sequence[Clause],
        text: str,
        read: Sequence[str],
        limit: int,
        *,
        columns: Sequence[str],
    ) -> AsyncIterator[Row]:
        """Yield rows, 50 at most, in the order of the workspace's reranking model, which reads the columns `read`."""
        parameters = {"columns_to_rerank": list(read)}
        reranker = {"model": "databricks_reranker", "model_type": "MODEL_TYPE_BASE", "parameters": parameters}
        body: Json = dict(columns=list(columns), num_results=limit, query_text=text, reranker=reranker)  # noqa: C408
        async for row in self._pages(index, body, clauses, zeros((await self.shape(index)).dimension)):
            yield row

    async def _pages(
        self, index: str, body: Json, clauses: Sequence[Clause], values: str, *, scored: bool = False
    ) -> AsyncIterator[Row]:
        columns, limit = body["columns"], body["num_results"]
        page = await self._first_page(index, body, clauses, values, scored=scored)
        received, passed = 0, set[str]()
        while True:
            if page.rows:
                _check_columns(index, columns, page.rows[0])
            for row in page.rows[: limit - received]:
                yield row
            received += len(page.rows)
            token = page.next_page_token
            if not token or received >= limit:
                return
            if token in passed or len(passed) == _MOST_PAGES:
                # The pages go in a circle: what is missing was not said.
                raise bad_answer(self.location.workspace_url)
            passed.add(token)
            page = await self.client.next_page(
                self.location.workspace_url, index, self.location.endpoint, token, scored=scored
            )

    async def _first_page(
        self, index: str, body: Json, clauses: Sequence[Clause], values: str, *, scored: bool
    ) -> QueryPage:
        """Ask in the language of the endpoint's type; where that is not known, find out which one it takes."""
        known = await self.takes_text()

        async def ask(*, storage_optimized: bool) -> QueryPage:
            asked = {**body, **query_filter(clauses, storage_optimized=storage_optimized)}
            return await self.client.query(self.location.workspace_url, index, asked, values, scored=scored)

        if known is not None:
            return await ask(storage_optimized=known)
        storage_optimized = False
        try:
            page = await ask(storage_optimized=False)
        except FailedPrecondition as error:
            if error.metadata.get("http_status") != "400":
                raise
            try:
                page = await ask(storage_optimized=True)
            except CoxswainError:
                raise error from None
            storage_optimized = True
        self.endpoint_types.learn(self.location, storage_optimized=storage_optimized)
        return page

    async def takes_text(self) -> bool | None:
        """Return whether the endpoint takes filters as text; None where the credential may not know."""
        return await self.endpoint_types.storage_optimized(self.location, self.client)

    async def shape(self, index: str) -> IndexShape:
        """Return what is remembered of an index.

        Raises:
            IndexMissing: it does not exist.
        FailedPrecondition: it does not hold vectors of one length.
        """
        location = self.location.workspace_url, index
        known = self.endpoint_types.shape(location)
        if known is None:
            description = await self.resources.describe_index(index)
            if description.state is ResourceState.NOT_FOUND:
                raise index_missing(f"index {index}")
            if not description.dimension:
                raise FailedPrecondition(
                    f"index {index} cannot be used: its vectors are not given by its rows",
                    reason="INDEX_NOT_READY",
                    metadata={"index": index, "state": description.state.name},
                )
            known = IndexShape(description.dimension, description.source_table)
            self.endpoint_types.learn_shape(location, known)
        return known


def _check_columns(index: str, columns: Sequence[str], row: Row) -> None:
    missing = [name for name in columns if name not in row]
    if missing:
        raise FailedPrecondition(
            f"rows of index {index} lack the columns {', '.join(missing)}: create it again (DeleteIndex, "
            "Provision), or name another index in the backend",
            reason="INDEX_NOT_READY",
            metadata={"index": index, "state": "COLUMNS_MISSING"},
        )
