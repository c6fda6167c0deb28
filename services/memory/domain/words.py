"""Words of texts, and how well a text answers a search for words. The same in every store."""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

MOST_WORDS: Final = 16_000
"""Words of one record that searches know of, the first ones."""
_MOST_TERMS = 64
_MOST_IN_PHRASE = 8
_MOST_CHARACTERS = 100
"""Characters of a word by which it is known."""
_MOST_IN_ALL = 150_000
"""Characters of all words of one record: more do not fit in PostgreSQL's index."""
_COMMON = 100
"""Records from which words that most of them have are passed over."""
_UNIT = 1_000_000
"""Weights are whole numbers, whose sums are the same in every order."""

# Marks of Latin, Greek and Cyrillic letters: a search for Zurich finds Zürich.
_MARKS = re.compile("[\u0300-\u036f]+")
# Scripts that put no spaces between words, each character of which is a word.
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")

Term: TypeAlias = tuple[str, ...]
"""A word, or several words in a row."""


def words_of(text: str) -> list[str]:
    """Return the words of a text in order: letters, digits and underscores, without case and accents."""
    if text.isascii():
        folded = text.lower()
    else:
        folded = _MARKS.sub("", unicodedata.normalize("NFKD", text)).casefold()
        folded = unicodedata.normalize("NFC", folded)
    words = [word[:_MOST_CHARACTERS] for word in _WORD.findall(folded)[:MOST_WORDS]]
    while sum(map(len, words)) > _MOST_IN_ALL:
        words = words[: len(words) // 2]
    return words


def terms_of(text: str) -> list[Term]:
    """Return what a search for a text looks for: its words, and what is written without spaces in a row ("AB-17/3")."""
    terms: dict[Term, None] = {}
    for written in text.split():
        words = words_of(written)
        terms.update(((word,), None) for word in words)
        if len(words) > 1:
            terms[tuple(words[:_MOST_IN_PHRASE])] = None
    return list(terms)[:_MOST_TERMS]


@dataclass(frozen=True, slots=True)
class TermWeights:
    """How much each term counts in a namespace: the rarer, the more."""

    weights: dict[Term, int]
    """Of the terms to look for."""
    total: int

    @classmethod
    def of(cls, counts: dict[Term, int], records: int) -> Self:
        """Return the weights of terms, given how many of the namespace's records have each."""
        every = {term: round(_UNIT * math.log1p((records - n + 0.5) / (n + 0.5))) for term, n in counts.items()}
        found = {term: weight for term, weight in every.items() if counts[term]}
        rare = {term: weight for term, weight in found.items() if 2 * counts[term] <= records or records < _COMMON}
        return cls(rare or found, max(1, sum(every.values())))

    def score(self, weight: int) -> float:
        """Return the part that the terms of a record have of all that was looked for, from 0 to 1."""
        return weight / self.total


@dataclass(frozen=True, slots=True)
class WordedText:
    """A record's text as a search for words sees it."""

    stored_id: str
    created_us: int
    text: str


@dataclass(frozen=True, slots=True)
class TextTerms:
    """Which of the terms that are looked for a record's text has."""

    stored_id: str
    created_us: int
    terms: frozenset[Term]

    @classmethod
    def of(cls, text: WordedText, terms: Sequence[Term]) -> Self:
        """Look for the terms in a text."""
        words = words_of(text.text)
        distinct = frozenset(words)
        has = (term for term in terms if distinct.issuperset(term) and (len(term) == 1 or _in_a_row(words, term)))
        return cls(text.stored_id, text.created_us, frozenset(has))


def ranked_by_words(terms: Sequence[Term], texts: Sequence[WordedText]) -> list[tuple[str, float]]:
    """Return the stored ids of texts that have at least one term, with their scores, in the order of every store.

    The best come first, of equal ones the newest, then by id. This is the plain definition of a search for words, for
    stores that cannot do better.
    """
    return ranked_by_terms(terms, [TextTerms.of(text, terms) for text in texts], len(texts))


def ranked_by_terms(
    terms: Sequence[Term], texts: Sequence[TextTerms], records: int, at_least: Mapping[Term, int] | None = None
) -> list[tuple[str, float]]:
    """Rank texts, of so many records in all, as `ranked_by_words` does.

    `at_least` says of terms that more records have them than are given here.
    """
    known = at_least or {}
    counts = {term: max(known.get(term, 0), sum(term in text.terms for text in texts)) for term in terms}
    weights = TermWeights.of(counts, records)
    sums = {
        text.stored_id: sum(weights.weights.get(term, 0) for term in text.terms)
        for text in texts
        if text.terms & weights.weights.keys()
    }
    found = [text for text in texts if text.stored_id in sums]
    found.sort(key=lambda text: (-sums[text.stored_id], -text.created_us, text.stored_id))
    return [(text.stored_id, weights.score(sums[text.stored_id])) for text in found]


def _in_a_row(words: Sequence[str], term: Term) -> bool:
    width = len(term)
    return any(
        words[start] == term[0] and tuple(words[start : start + width]) == term
        for start in range(len(words) - width + 1)
    )
