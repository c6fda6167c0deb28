"""The most central sentences of a text: what `offline/extract` answers with."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.models.domain import Vectors
from services.models.providers.offline.embedder import PackagedEmbedder
from services.models.providers.offline.sentences import split_lines, split_sentences
from services.models.providers.offline.words import LEANING_WORDS, STOP_WORDS, TASK_WORDS

_TASK_WEIGHT = 0.5
_DIVERSITY = 0.4
_DEFAULT_COUNT = (3, 7)
_MAX_COUNT = 50
_MAX_INSTRUCTION = 4000
# Of longer texts every second, third, ... sentence is a candidate: 20 MB of vectors, whatever the length.
_MAX_CANDIDATES = 20_000
_SENTENCES_A_PARAGRAPH = 3
# Above this likeness two sentences say the same.
_DUPLICATE = 0.92

_NUMBER_WORDS = {
    "single": 1,
    "one": 1,
    "two": 2,
    "a couple of": 2,
    "three": 3,
    "a few": 3,
    "four": 4,
    "five": 5,
    "several": 5,
    "six": 6,
    "half a dozen": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
    "a dozen": 12,
    "thirteen": 13,
    "fourteen": 14,
    "fifteen": 15,
    "twenty": 20,
}
_NUMBER = r"(\d{1,4}|" + "|".join(sorted(_NUMBER_WORDS, key=len, reverse=True)) + r")"
_RANGE = re.compile(
    _NUMBER
    + r"(?:\s*(?:-|–|—|to|or|and)\s*"
    + _NUMBER
    + r")?[\s-]+(?:(?!(?:a|an|at|by|each|every|for|from|in|of|on|per|the|to|with)\b)[a-z-]+,?\s+){0,4}?"
    + r"(sentence|statement|point|bullet|fact|line|quote|quotation|item|finding|takeaway|highlight|insight|paragraph"
    + r"|word)s?\b",
    re.IGNORECASE,
)
# "One sentence for each point" tells the form of a part, not the length of the whole.
_FOR_EACH = re.compile(r"\b(?:each|every|per)\b", re.IGNORECASE)
_CLAUSE_END = re.compile(r"[.;!?\n]")
_WORD = re.compile(r"[^\W\d_]{2,}")
# Openings that lean on the sentence before.
_LEANING = re.compile(
    rf"^[\"'“‘(\[]*(?:{'|'.join(sorted(map(re.escape, LEANING_WORDS)))}"
    r"|for (?:example|instance)|in (?:addition|other words)|on the other hand|as a result|at the same time)\b",
    re.IGNORECASE,
)
_SYMBOLS = re.compile(r"[<>{}|=\\/_#@$%^~]")
_LINK = re.compile(r"\bhttps?://|\bwww\.", re.IGNORECASE)
# In standard deviations of the score.
_LEANING_COST = 0.8
_QUESTION_COST = 1.2
_SYMBOLS_COST = 0.5
_LINK_COST = 1.0
_WORD_COST = 0.03
_COMFORTABLE_WORDS = 30


@dataclass(frozen=True, slots=True)
class Length:
    """How much to extract."""

    sentences: int | None = None
    words: int | None = None


def requested_length(*instructions: str) -> Length:
    """Return the length that the first of the instructions to name one asks for, such as "5 sentences".

    Of a range the upper end counts; a paragraph is three sentences; a number of words is a limit.
    """
    for instruction in instructions:
        sentences: int | None = None
        paragraphs: int | None = None
        words: int | None = None
        for match in _RANGE.finditer(instruction[:_MAX_INSTRUCTION]):
            lower, upper, unit = match.groups()
            number = _number(upper or lower)
            if not number or (number == 1 and _FOR_EACH.search(_clause(instruction, match))):
                continue
            kind = unit.lower()
            if kind == "word":
                words = words or number
            elif kind == "paragraph":
                paragraphs = paragraphs or number
            else:
                sentences = sentences or number
        if paragraphs and not sentences:
            sentences = paragraphs * _SENTENCES_A_PARAGRAPH
        if sentences or words:
            return Length(min(sentences, _MAX_COUNT) if sentences else None, words)
    return Length()


def _clause(text: str, match: re.Match[str]) -> str:
    before = list(_CLAUSE_END.finditer(text, 0, match.start()))
    after = _CLAUSE_END.search(text, match.end())
    return text[before[-1].end() if before else 0 : after.start() if after else len(text)]


def _number(text: str) -> int:
    return int(text) if text.isdigit() else _NUMBER_WORDS[text.lower()]


def extract(embedder: PackagedEmbedder, material: Sequence[str], task: str, length: Length) -> list[str]:
    """Return the sentences of `material` that say most of it and of what `task` asks about, in the material's order.

    Blocks; takes about 30 ms for ten thousand words. Empty when the material has nothing to take.
    """
    text = "\n\n".join(material)
    candidates = split_sentences(text) or split_lines(text)
    if not candidates:
        return []
    candidates = candidates[:: -(-len(candidates) // _MAX_CANDIDATES)]
    count = _count(length, candidates)
    if len(candidates) <= count:
        return _within_words(candidates, list(range(len(candidates))), length.words)
    vectors, _ = embedder.embed_now(candidates)
    scores = _scores(embedder, candidates, vectors, task)
    order = _choose(vectors, scores, count)
    return _within_words(candidates, order, length.words)


def _count(length: Length, candidates: Sequence[str]) -> int:
    if length.sentences is not None:
        return length.sentences
    if length.words is not None:
        typical = float(np.median([len(sentence.split()) for sentence in candidates]))
        return max(1, min(_MAX_COUNT, math.ceil(length.words / typical)))
    least, most = _DEFAULT_COUNT
    return max(least, min(most, round(math.sqrt(len(candidates)))))


def _within_words(candidates: Sequence[str], order: Sequence[int], limit: int | None) -> list[str]:
    kept: list[int] = []
    words = 0
    for index in order:
        size = len(candidates[index].split())
        if limit is not None and kept and words + size > limit:
            continue
        words += size
        kept.append(index)
    return [candidates[index] for index in sorted(kept)]


def _scores(embedder: PackagedEmbedder, candidates: Sequence[str], vectors: Vectors, task: str) -> NDArray[np.float32]:
    scores = _standardised(vectors @ _unit(vectors.mean(axis=0)))
    subject = _subject(task, candidates)
    if subject:
        question, _ = embedder.embed_now([subject])
        scores = (1 - _TASK_WEIGHT) * scores + _TASK_WEIGHT * _standardised(vectors @ question[0])
    costs = np.array([_reading_cost(sentence) for sentence in candidates], dtype=np.float32)
    return scores - costs


def _reading_cost(sentence: str) -> float:
    """How much less a sentence is worth because it stands badly alone."""
    return (
        _LEANING_COST * bool(_LEANING.match(sentence))
        + _QUESTION_COST * ("?" in sentence[-3:])
        + _SYMBOLS_COST * (len(_SYMBOLS.findall(sentence)) > 2)
        + _LINK_COST * bool(_LINK.search(sentence))
        + _WORD_COST * max(0, len(sentence.split()) - _COMFORTABLE_WORDS)
    )


def _subject(task: str, candidates: Sequence[str]) -> str:
    """The words of the task that the material is about: the task's other words say what to do, not where to look."""
    vocabulary = Counter(word for sentence in candidates for word in set(_content_words(sentence)))
    return " ".join(word for word in _content_words(task) if vocabulary[word] and word not in TASK_WORDS)


def _content_words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.lower()) if word not in STOP_WORDS]


def _choose(vectors: Vectors, scores: NDArray[np.float32], count: int) -> list[int]:
    """Return indices by maximal marginal relevance: each is worth its score less its likeness to those before it."""
    chosen: list[int] = []
    likeness = np.full(len(scores), -1.0, dtype=np.float32)
    relevance = _scaled(scores)
    for _ in range(min(count, len(scores))):
        worth = (1 - _DIVERSITY) * relevance - _DIVERSITY * np.maximum(likeness, 0)
        worth[likeness > _DUPLICATE] = -np.inf
        worth[chosen] = -np.inf
        best = int(np.argmax(worth))
        if worth[best] == -np.inf:
            break
        chosen.append(best)
        likeness = np.maximum(likeness, vectors @ vectors[best])
    return chosen


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector


def _standardised(values: NDArray[np.float32]) -> NDArray[np.float32]:
    centred: NDArray[np.float32] = values - values.mean()
    spread = float(values.std())
    return centred / spread if spread else centred


def _scaled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.ones_like(values)
