"""The most central sentences of a text: what `offline/extract` answers with."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.models.domain.answer import Vectors
from services.models.providers.offline.embedder import PackagedEmbedder
from services.models.providers.offline.sentences import Sentence, split_lines, split_sentences
from services.models.providers.offline.words import LEANING_WORDS, STOP_WORDS, TASK_WORDS

_TASK_WEIGHT = 0.5
_DIVERSITY = 0.4
# What two sentences have in common, above what any two of the text have, and where they stand.
_CONTENT_WEIGHT = 1.5
_PLACE_WEIGHT = 0.25
_SAMPLE = 200
_DEFAULT_COUNT = (3, 7)
_MAX_COUNT = 50
_MAX_INSTRUCTION = 4000
# Of longer texts every second, third, ... sentence is a candidate: at most 20 MB of vectors.
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
# Bounded wherever it repeats: "one-one-one-..." would be looked through to its end from each of its numbers.
_RANGE = re.compile(
    _NUMBER
    + r"(?:\s{0,9}(?:-|–|—|to|or|and)\s{0,9}"
    + _NUMBER
    + r")?[\s-]{1,9}(?:(?!(?:a|an|at|by|each|every|for|from|in|of|on|per|the|to|with)\b)[a-z-]{1,30}+,?\s{1,9}){0,4}?"
    + r"(sentence|statement|point|bullet|fact|line|quote|quotation|item|finding|takeaway|highlight|insight|paragraph"
    + r"|word)s?\b",
    re.IGNORECASE,
)
# "One sentence for each point" states the form of a part, not the length of the whole.
_FOR_EACH = re.compile(r"\b(?:each|every|per)\b", re.IGNORECASE)
_CLAUSE_END = re.compile(r"[.;!?\n]")
_WORD = re.compile(r"[^\W\d_]{2,}")
# Openings that lean on the sentence before.
_LEANING = re.compile(
    rf"^[\"'“‘(\[]*(?:{'|'.join(sorted(map(re.escape, LEANING_WORDS)))}"
    r"|the (?:first|second|third|fourth|last|latter|former|others?|same|result|reason)(?: \w+)?"
    r" (?:was|is|were|are|had|did|does)"
    r"|in this (?:article|book|chapter|document|guide|paper|report|section|text)|next|note"
    r"|for (?:example|instance)|in (?:addition|other words)|on the other hand|as a result|at the same time)\b",
    re.IGNORECASE,
)
_SYMBOLS = re.compile(r"[<>{}|=\\/_#@$%^~]")
_POINTER = re.compile(r"\bhttps?://|\bwww\.|\b(?:chapter|figure|listing|section|table)s? \d", re.IGNORECASE)
# In standard deviations of the score.
_OPENING_GAIN = 0.5
_MENTION_GAIN = 2.0
_LEANING_COST = 0.8
_QUESTION_COST = 1.2
_SYMBOLS_COST = 0.5
_POINTER_COST = 1.0
_WORD_COST = 0.03
_COMFORTABLE_WORDS = (9, 30)


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
    vectors, _ = embedder.embed([sentence.text for sentence in candidates])
    scores = _scores(embedder, candidates, vectors, task)
    order = _choose(vectors, scores, count)
    return _within_words(candidates, order, length.words)


def _count(length: Length, candidates: Sequence[Sentence]) -> int:
    if length.sentences is not None:
        return length.sentences
    if length.words is not None:
        typical = float(np.median([len(sentence.text.split()) for sentence in candidates]))
        return max(1, min(_MAX_COUNT, math.ceil(length.words / typical)))
    least, most = _DEFAULT_COUNT
    return max(least, min(most, round(math.sqrt(len(candidates)))))


def _within_words(candidates: Sequence[Sentence], order: Sequence[int], limit: int | None) -> list[str]:
    kept: list[int] = []
    words = 0
    for index in order:
        size = len(candidates[index].text.split())
        if limit is not None and kept and words + size > limit:
            continue
        words += size
        kept.append(index)
    return [candidates[index].text for index in sorted(kept)]


def _scores(
    embedder: PackagedEmbedder, candidates: Sequence[Sentence], vectors: Vectors, task: str
) -> NDArray[np.float32]:
    scores = _standardised(vectors @ _unit(vectors.mean(axis=0)))
    subject = _subject(task, candidates)
    if subject:
        question, _ = embedder.embed([" ".join(subject)])
        scores = (1 - _TASK_WEIGHT) * scores + _TASK_WEIGHT * _standardised(vectors @ question[0])
        scores += _MENTION_GAIN * np.array([_mentioned(subject, sentence) for sentence in candidates], dtype=np.float32)
    return scores + np.array([_standing(sentence) for sentence in candidates], dtype=np.float32)


def _standing(sentence: Sentence) -> float:
    """How much more a sentence is worth because it opens a paragraph, less what it lacks to stand alone."""
    text = sentence.text
    words = len(text.split())
    return (
        _OPENING_GAIN * sentence.opens_paragraph
        - _LEANING_COST * bool(_LEANING.match(text))
        - _QUESTION_COST * ("?" in text[-3:])
        - _SYMBOLS_COST * (len(_SYMBOLS.findall(text)) > 2)
        - _POINTER_COST * bool(_POINTER.search(text))
        - _WORD_COST * (max(0, words - _COMFORTABLE_WORDS[1]) + 2 * max(0, _COMFORTABLE_WORDS[0] - words))
    )


def _subject(task: str, candidates: Sequence[Sentence]) -> list[str]:
    """The words of the task that the material is about: its other words say what to do, not where to look."""
    vocabulary = {word for sentence in candidates for word in _content_words(sentence.text)}
    return list(dict.fromkeys(word for word in _content_words(task) if word in vocabulary and word not in TASK_WORDS))


def _mentioned(subject: Sequence[str], sentence: Sentence) -> float:
    """Which share of the subject a sentence speaks of by name."""
    said = set(map(_stem, _content_words(sentence.text)))
    return sum(_stem(word) in said for word in subject) / len(subject)


def _stem(word: str) -> str:
    """A word without most of its endings."""
    return word[: max(4, len(word) - 2)]


def _content_words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.lower()) if word not in STOP_WORDS]


def _choose(vectors: Vectors, scores: NDArray[np.float32], count: int) -> list[int]:
    """Return indices by maximal marginal relevance.

    Each is worth its score less its likeness to those before it, in what it says or, so that the whole text is covered,
    in where it stands.
    """
    chosen: list[int] = []
    positions = np.arange(len(scores), dtype=np.float32)
    reach = len(scores) / count
    usual = _usual_likeness(vectors)
    said = np.full(len(scores), -1.0, dtype=np.float32)
    likeness = np.zeros(len(scores), dtype=np.float32)
    relevance = _scaled(scores)
    for _ in range(min(count, len(scores))):
        worth = (1 - _DIVERSITY) * relevance - _DIVERSITY * likeness
        worth[said > _DUPLICATE] = -np.inf
        worth[chosen] = -np.inf
        best = int(np.argmax(worth))
        if worth[best] == -np.inf:
            break
        chosen.append(best)
        alike = vectors @ vectors[best]
        said = np.maximum(said, alike)
        in_content = np.clip((alike - usual) / (1 - usual), 0, 1)
        in_place = np.maximum(0, 1 - np.abs(positions - best) / reach)
        likeness = np.maximum(likeness, _CONTENT_WEIGHT * in_content + _PLACE_WEIGHT * in_place)
    return chosen


def _usual_likeness(vectors: Vectors) -> float:
    """How much alike any two sentences of the text are, because they are of one text."""
    some = vectors[:: -(-len(vectors) // _SAMPLE)]
    return min(0.9, max(0.0, float(np.median(some @ some.T))))


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
