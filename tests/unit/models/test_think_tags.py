"""Thoughts at the beginning of a text are reasoning, however the text is cut into pieces."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.models.providers.think_tags import ThinkTagSplitter


def _split(pieces: list[str]) -> tuple[str, str]:
    splitter = ThinkTagSplitter()
    parts = [splitter.feed(piece) for piece in pieces] + [splitter.finish()]
    return "".join(reasoning for reasoning, _ in parts), "".join(text for _, text in parts)


CASES = [
    ("<think>think</think>hello", ("think", "hello")),
    ("\n<think>\nthink\n</think>\n\nhello\n", ("\nthink\n", "hello\n")),
    ("<think></think>hello", ("", "hello")),
    ("<think>only", ("only", "")),
    ("hello <think>not</think>", ("", "hello <think>not</think>")),
    ("<thin", ("", "<thin")),
    ("<thinking>x", ("", "<thinking>x")),
    ("<think>a</thinx></think>b", ("a</thinx>", "b")),
    ("", ("", "")),
    ("  ", ("", "  ")),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_a_text_is_split_whole(text: str, expected: tuple[str, str]) -> None:
    assert _split([text]) == expected


@given(st.sampled_from(CASES), st.lists(st.integers(0, 40), max_size=6))
def test_a_text_is_split_in_any_pieces(case: tuple[str, tuple[str, str]], cuts: list[int]) -> None:
    text, expected = case
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    assert _split([text[start:end] for start, end in itertools.pairwise(edges)]) == expected
