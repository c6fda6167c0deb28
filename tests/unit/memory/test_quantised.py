"""A search that begins with quantised vectors finds what one of the vectors themselves finds, to the last place."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.records import MemoryKind
from services.memory.domain.searches import Query, Ranking, SearchPosition
from services.memory.rows.columns import Column
from services.memory.stores.sql import shortlist_vectors
from services.memory.stores.sql.blocks import ROW_BYTES, VectorBlock
from services.memory.stores.sql.quantised import quantised, reaches
from services.memory.stores.sql.shortlist import shortlist
from services.memory.stores.sql.shortlist_vectors import best_of_shortlist
from services.memory.stores.sql.statements import NAMESPACE_VERSION, WINNERS
from services.memory.stores.sql.vectors import Candidates, nearest

KEY = NamespaceKey("sales", "crew", MemoryKind.UNIFIED)
NOW_US = 1_800_000_000_000_000
VERSION = 7


def _block(matrix: np.ndarray, seed: int = 0) -> VectorBlock:
    random, count = np.random.default_rng(seed), len(matrix)
    return VectorBlock.of(
        matrix.shape[1],
        ids=[f"{place:064x}" for place in random.permutation(count)],
        embeddings=[row.astype("<f4").tobytes() for row in matrix],
        created_us=[int(NOW_US - random.integers(0, 10**13)) for _ in range(count)],
        importance=[float(random.random()) for _ in range(count)],
    )


async def _found(
    block: VectorBlock, query: Query, allowed: np.ndarray, *, version: int = VERSION
) -> tuple[Candidates | None, int]:
    """Search a block that was quantised; return the results and how many vectors were read."""
    vectors = dict(zip(block.ids.tolist(), block.matrix, strict=True))
    read = 0

    async def fetch(_statement: Any, parameters: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        nonlocal read
        read += len(parameters[WINNERS])
        return [
            {NAMESPACE_VERSION: version, Column.ID: name, Column.EMBEDDING: vectors[name.encode()].tobytes()}
            for name in reversed(parameters[WINNERS])
        ]

    small = block.as_bytes()
    listed = shortlist(small, query, allowed, NOW_US)
    return await best_of_shortlist(fetch, KEY, VERSION, small, listed, query, NOW_US), read


@given(
    st.integers(0, 10_000),
    st.integers(1, 300),
    st.sampled_from([1, 3, 16, 64]),
    st.integers(1, 40),
    st.none() | st.sampled_from([-0.5, 0.0, 0.25, 0.9]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 0.3]),
)
@settings(max_examples=80, deadline=None)
def test_quantised_vectors_find_what_the_vectors_find(
    seed: int,
    count: int,
    dimension: int,
    limit: int,
    min_score: float | None,
    ranked: bool,
    later: bool,
    foreign: float,
) -> None:
    random = np.random.default_rng(seed)
    # Products of such numbers are exact in every order, so that nothing but the search itself decides; many are equal.
    matrix = random.integers(-8, 9, size=(count, dimension)).astype(np.float32) / 32
    matrix[random.random(count) < 0.3] = matrix[0]
    # Rows that something else has written: of length zero, and far longer or shorter than they should be.
    matrix *= np.where(random.random(count) < foreign, 2.0 ** random.choice([-40, -12, 0, 12, 60], count), 1)[
        :, None
    ].astype(np.float32)
    block = _block(matrix, seed)
    allowed = random.random(count) < 0.8
    query = Query(
        (random.integers(-8, 9, size=dimension) / 32).astype(np.float32),
        limit,
        min_score=min_score,
        ranking=Ranking(0.5, 0.3, 0.2, 30.0) if ranked else None,
    )
    everything = nearest(block, query, allowed, NOW_US)
    if later and len(everything.ids):
        last = len(everything.ids) // 2
        position = SearchPosition(float(everything.scores[last]), everything.ids[last].decode(), last)
        query = Query(query.vector, limit, min_score=min_score, ranking=query.ranking, after=position)
    expected = nearest(block, query, allowed, NOW_US)
    found, _ = asyncio.run(_found(block, query, allowed))
    assert found is not None
    assert found.ids.tolist() == expected.ids.tolist()
    assert found.scores.tolist() == expected.scores.tolist()
    assert found.similarities.tolist() == expected.similarities.tolist()


@given(st.integers(0, 10_000), st.sampled_from([1, 2, 7, 384, 1024]), st.sampled_from([1e-30, 0.01, 1.0, 50.0, 1e30]))
@settings(max_examples=40, deadline=None)
def test_every_similarity_is_within_its_reach(seed: int, dimension: int, length: float) -> None:
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(50, dimension)) * random.choice([1.0, 0.001], (50, dimension))
    matrix *= length / np.linalg.norm(matrix, axis=1, keepdims=True)
    direction = random.normal(size=dimension)
    query = (direction / np.linalg.norm(direction)).astype(np.float32)
    exact = matrix.astype(np.float32)
    low, high = reaches(quantised(exact), query)
    for similarities in (np.clip(exact @ query, -1, 1), np.clip(exact.astype(np.float64) @ query, -1, 1)):
        assert (low <= similarities).all()
        assert (similarities <= high).all()
    if 0.01 <= length <= 1:
        assert (high - low).max() <= 0.03 * length * np.sqrt(max(dimension, 16) / 384) + 0.01


def test_a_last_result_that_has_fallen_since_takes_nobodys_place() -> None:
    block = _block(np.array([[0.5, 0.0], [0.25, 0.0]], dtype=np.float32))
    last = SearchPosition(0.9, block.ids[0].decode(), 1)
    query, allowed = Query(np.array([1, 0], dtype=np.float32), 1, after=last), np.ones(2, dtype=np.bool_)
    found, _ = asyncio.run(_found(block, query, allowed))
    assert found is not None
    assert found.ids.tolist() == nearest(block, query, allowed, NOW_US).ids.tolist() == [block.ids[1]]


def test_few_vectors_are_read_where_few_are_near() -> None:
    random = np.random.default_rng(3)
    matrix = random.normal(size=(5000, 64)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    block = _block(matrix)
    query, allowed = Query(matrix[17], 5), np.ones(5000, dtype=np.bool_)
    found, read = asyncio.run(_found(block, query, allowed))
    assert found is not None
    assert found.ids.tolist() == nearest(block, query, allowed, NOW_US).ids.tolist()
    assert read < 200


def test_an_outdated_block_and_one_of_copies_are_left_to_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = _block(np.full((400, 4), 0.5, dtype=np.float32))
    query, allowed = Query(np.full(4, 0.5, dtype=np.float32), 3), np.ones(400, dtype=np.bool_)
    found, read = asyncio.run(_found(copies, query, allowed))
    assert found is not None
    assert [name.decode() for name in found.ids.tolist()] == [f"{place:064x}" for place in range(3)]
    assert read == 400
    assert asyncio.run(_found(copies, query, allowed, version=VERSION + 1)) == (None, 67)
    monkeypatch.setattr(shortlist_vectors, "_MOST", 100)
    assert asyncio.run(_found(copies, query, allowed))[0] is None


def test_quantised_blocks_change_and_take_a_quarter_of_the_memory() -> None:
    random = np.random.default_rng(5)
    matrix = random.normal(size=(300, 256)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    whole = _block(matrix)
    small = whole.as_bytes()
    assert small.nbytes - ROW_BYTES * 300 < (whole.nbytes - ROW_BYTES * 300) / 3
    assert small.as_bytes() is small
    part = VectorBlock.of(256, ids=[], embeddings=[], created_us=[]).as_bytes().with_room(300)
    with patch.object(VectorBlock, "with_room", side_effect=AssertionError("no room")):
        grown = part.extended(whole)
    fewer = grown.updated(_block(matrix[:0]), [f"{place:064x}" for place in range(100)])
    allowed = fewer.allowed(Query(matrix[0], 1).filter, NOW_US, unified=False)
    listed = shortlist(fewer, Query(matrix[0], 300), allowed, NOW_US)
    assert sorted(fewer.ids[listed.positions].tolist()) == [f"{place:064x}".encode() for place in range(100, 300)]
    assert fewer.quantised is not None
    assert len(fewer) == 200
