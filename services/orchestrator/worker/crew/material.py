"""Finds the material in a prompt: the texts a crew works on, as opposed to its instructions.

CrewAI builds one text out of both. The material is known, though, so it is looked for as it is, and the prompt stays
byte for byte what CrewAI made of it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from coxswain.models.v1.inference_pb2 import ContentPart

SHORTEST_MATERIAL = 80
"""Shorter inputs (a name, a number, a question) are part of the instruction they stand in."""
_FEWEST_WORDS = 4
"""Of a short input that states something."""


def materials_of(inputs: Mapping[str, Any], results: Iterable[str]) -> list[str]:
    """Return the texts among `inputs` and earlier `results` that are material, without repetition.

    Where there is no long text, short inputs that state something are the material.
    """
    given = [str(value) for value in inputs.values()]
    texts = [text for text in given if len(text) >= SHORTEST_MATERIAL] + [text for text in results if text.strip()]
    return list(dict.fromkeys(texts or filter(_states_something, given)))


def _states_something(text: str) -> bool:
    return len(text.split()) >= _FEWEST_WORDS and text.rstrip().endswith((".", "!"))


def split_material(text: str, materials: Sequence[str]) -> list[ContentPart]:
    """Return the parts of a message, each text or material; joined they are `text` again."""
    found: list[tuple[int, int]] = []
    """Those found so far in the order of the text; none overlaps another."""
    # Longer ones first: a result may quote an input.
    for material in sorted(materials, key=len, reverse=True):
        if material:
            found = list(_merged(found, _occurrences(text, material)))
    parts: list[ContentPart] = []
    position = 0
    for start, end in found:
        if start > position:
            parts.append(ContentPart(text=text[position:start]))
        parts.append(ContentPart(material=text[start:end]))
        position = end
    if position < len(text) or not parts:
        parts.append(ContentPart(text=text[position:]))
    return parts


def _occurrences(text: str, material: str) -> Iterator[tuple[int, int]]:
    start = text.find(material)
    while start >= 0:
        end = start + len(material)
        yield start, end
        start = text.find(material, end)


def _merged(taken: Iterable[tuple[int, int]], others: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield ranges that are taken and those of the others that overlap none of them; all are in order."""
    ranges = iter(taken)
    current = next(ranges, None)
    last_end = 0
    for start, end in others:
        while current is not None and current[0] < start:
            yield current
            last_end, current = current[1], next(ranges, None)
        if start >= last_end and (current is None or end <= current[0]):
            yield start, end
    if current is not None:
        yield current
    yield from ranges
