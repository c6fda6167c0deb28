"""Searches for words in a workspace: what other groups store in the same index decides nothing."""

from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pytest

from services.memory.domain.filters import EVERYTHING, Filter
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind, Record, Unified
from services.memory.domain.searches import Query, SearchMode, WordQuery
from services.memory.domain.vectors import unit_vector
from services.memory.domain.words import terms_of
from services.memory.stores.databricks.client import VectorSearchClient
from services.memory.stores.databricks.queries import MAX_RESULTS
from services.memory.stores.databricks.store import DatabricksMemoryStore
from services.memory.usecases.ranked_search import OneNamespace, search_by_rank
from tests.integration.memory.databricks_parts import (
    INDEX,
    KEY,
    OWNER,
    emulator,
    open_repository,
    open_store,
    workspace_client,
)
from tests.integration.memory.store_model import NOW

VECTOR = unit_vector([1, 0, 0])
OTHERS = NamespaceKey("legal", "a", MemoryKind.UNIFIED)


def _texts(*contents: str, prefix: str = "t") -> list[Record]:
    return [
        Record(f"{prefix}{n}", Unified(content), VECTOR, created_at=NOW + timedelta(seconds=n))
        for n, content in enumerate(contents)
    ]


async def _write(client: VectorSearchClient, url: str, key: NamespaceKey, records: Sequence[Record]) -> None:
    await open_repository(client, url).upsert(INDEX, key, records, "test/embed")


async def _found(store: DatabricksMemoryStore, text: str, limit: int = 10, **query: object) -> list[tuple[str, float]]:
    asked = WordQuery(terms_of(text), limit, text=text, **query)  # type: ignore[arg-type]
    return [(found.record.id, found.score) for found in (await store.search_words(KEY, asked, NOW)).results]


async def _ranked_there(client: VectorSearchClient, url: str, text: str) -> list[str]:
    """The contents of the group's rows in the workspace's own order."""
    rows = open_repository(client, url).queries.rows_with_words(
        INDEX, [], text, within=["content"], columns=["id", "content", "group_id"]
    )
    return [row["content"] async for row in rows if OWNER.group_id == row["group_id"]]


@pytest.mark.parametrize("endpoint_type", ["STANDARD", "STORAGE_OPTIMIZED"])
async def test_a_group_cannot_tell_by_its_ranking_which_words_others_store(endpoint_type: str) -> None:
    question = "harbour storm"
    with emulator(endpoint_type) as vectors:  # type: ignore[arg-type]
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            await _write(client, vectors.url, KEY, _texts("a harbour", "a storm", "the storm and a harbour"))

            async def hybrid() -> list[tuple[str, float, float]]:
                outcome = await search_by_rank(
                    OneNamespace(store, KEY, NOW),
                    Query(VECTOR, 10, EVERYTHING),
                    mode=SearchMode.HYBRID,
                    terms=terms_of(question),
                    text=question,
                    diversity=None,
                )
                return [(found.record.id, found.score, found.similarity) for found in outcome.results]

            seen: list[object] = []
            orders = []
            for word in ("", "harbour", "storm storm"):
                # First nobody else, then many who write of harbours, then more who write of storms.
                others = _texts(*[f"{word} {n}" for n in range(len(word) * 30)], prefix=word or "none")
                if word:
                    await _write(client, vectors.url, OTHERS, others)
                seen.append((await _found(store, question), await hybrid()))
                orders.append(await _ranked_there(client, vectors.url, question))
            assert seen[0] == seen[1] == seen[2]
            [(best, score), *rest] = await _found(store, question)
            assert (best, score, [stored for stored, _ in rest]) == ("t2", 1.0, ["t1", "t0"])
            # The workspace's own order is another one each time.
            assert orders[1] != orders[2]


async def test_of_many_rows_those_with_a_rare_word_are_found_and_among_common_ones_the_newest() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            await _write(client, vectors.url, KEY, _texts(*[f"report number {n}" for n in range(250)]))
            await _write(client, vectors.url, KEY, _texts("report " * 40 + "AB-XQ/Z", "a needle", prefix="rare"))
            found = await _found(store, "report on AB-XQ/Z and the needle", 100)
            assert [record_id for record_id, _ in found] == ["rare0", "rare1"]
            asked = WordQuery(terms_of("report"), 5, skip=2)
            outcome = await store.search_words(KEY, asked, NOW)
            assert [found.record.id for found in outcome.results] == [f"t{n}" for n in (247, 246, 245, 244, 243)]
            assert {found.score for found in outcome.results} == {1.0}
            assert not outcome.truncated
            embedded = await store.search_words(KEY, WordQuery(terms_of("needle"), 5, include_embeddings=True), NOW)
            assert [found.record.embedding is not None for found in embedded.results] == [True]
            requests = [entry for entry in vectors.log if entry.path.endswith("/query")]
            assert len(requests) < MAX_RESULTS // 200


async def test_words_are_looked_for_in_what_is_said_alone_and_as_it_was_written() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            records = _texts("Zürich", "Zurich", "elsewhere")
            records[2].metadata = '{"note":"zurich"}'
            hidden = Record(
                "hidden", Unified("zurich", source="s", private=True), VECTOR, owner="subject:bob", created_at=NOW
            )
            await _write(client, vectors.url, KEY, [*records, hidden])
            assert sorted(await _found(store, "Zürich", filter=Filter())) == [("t0", 1.0), ("t1", 1.0)]
            # The id of the group stands in a column of each row, the owner in the envelope of a private one.
            for text in (OWNER.group_id, "bob", "subject"):
                assert await _found(store, text) == []


async def test_the_vectors_of_what_words_found_are_compared_with_the_query() -> None:
    with emulator() as vectors:
        async with workspace_client() as client:
            store = open_store(client, vectors.url)
            worded = Record("far", Unified("order AB-XQ"), unit_vector([0, 1, 0]), created_at=NOW)
            await _write(client, vectors.url, KEY, [worded, *_texts(*[f"near {n}" for n in range(210)])])
            outcome = await search_by_rank(
                OneNamespace(store, KEY, NOW),
                Query(VECTOR, 10, EVERYTHING, min_score=0.5),
                mode=SearchMode.HYBRID,
                terms=terms_of("AB-XQ"),
                text="AB-XQ",
                diversity=None,
            )
            [far] = [found for found in outcome.results if found.record.id == "far"]
            assert np.isclose(far.similarity, 0.0)
            assert far.score == outcome.results[0].score
