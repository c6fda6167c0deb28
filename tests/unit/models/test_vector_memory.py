"""Groups share the memory of vectors, and none pushes out what others hold."""

from datetime import UTC, datetime

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.models.usecases.vector_memory import Vector, VectorKey, VectorMemory

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEIGHT = 800
"""Bytes that a vector of 25 components weighs."""


def key(group: str, text: str) -> VectorKey:
    return VectorKey(group, "1", NOW, 0, text.encode())


def made(group: str, *texts: str) -> list[tuple[VectorKey, Vector]]:
    return [(key(group, text), np.full(25, len(text), dtype=np.float32)) for text in texts]


def held(memory: VectorMemory, group: str, texts: list[str]) -> list[str]:
    return [text for text in texts if memory.get(key(group, text)) is not None]


def test_a_group_that_floods_the_memory_pushes_out_its_own_vectors_only() -> None:
    memory = VectorMemory(100 * WEIGHT, 60)
    few, many = [f"few {number}" for number in range(20)], [f"many {number}" for number in range(1000)]
    memory.put(made("sales", *few))
    for text in many:
        memory.put(made("legal", text))
    assert held(memory, "sales", few) == few
    kept = held(memory, "legal", many)
    assert 70 <= len(kept) <= 80
    assert kept == many[-len(kept) :], "what was used longest ago leaves first"
    # A third group gets its part from the one that holds most.
    memory.put(made("ops", *few))
    assert held(memory, "ops", few) == held(memory, "sales", few) == few


def test_what_is_over_leaves_room() -> None:
    now = [0.0]
    memory = VectorMemory(10 * WEIGHT, 60, lambda: now[0])
    texts = [str(number) for number in range(10)]
    memory.put(made("sales", *texts))
    now[0] = 61.0
    memory.put(made("legal", *texts))
    assert held(memory, "legal", texts) == texts
    assert held(memory, "sales", texts) == []


def test_what_is_forgotten_is_gone_and_a_memory_of_no_size_keeps_nothing() -> None:
    memory = VectorMemory(10 * WEIGHT, 60)
    memory.put(made("sales", "a", "b"))
    memory.forget([key("sales", "a"), key("legal", "b")])
    assert held(memory, "sales", ["a", "b"]) == ["b"]
    nothing = VectorMemory(0, 60)
    nothing.put(made("sales", "a"))
    assert held(nothing, "sales", ["a"]) == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30)), max_size=120))
def test_the_bound_holds_for_all_groups_together_and_equal_parts_are_safe(puts: list[tuple[str, int]]) -> None:
    memory = VectorMemory(16 * WEIGHT, 60)
    for group, number in puts:
        memory.put(made(group, str(number)))
        kept = {name: len(held(memory, name, [str(each) for each in range(31)])) for name in "abc"}
        assert sum(kept.values()) <= 16
        assert kept[group] >= 1
