"""Attempts to get at another group's things: requests of ours that name something of theirs.

Each attempt is made twice, with a value of theirs and with its twin, which looks the same and never existed. What comes
of the two must not differ.
"""

import itertools
import random
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from tests.e2e.tenants.api import message_of
from tests.e2e.tenants.references import Reference, public_rpcs, references_of
from tests.e2e.tenants.requests import base_request
from tests.e2e.tenants.things import Group

HEADER = "x-group-id"
_HEX = "0123456789abcdef"


class Twins:
    """For each value of theirs another one of the same form, always the same."""

    def __init__(self, names: str, theirs: Group) -> None:
        """`names` stands in the names that theirs has given."""
        subject = theirs.subject
        self._marks = {names: mark("npqrstvwxyz"), subject: f"dev|{mark('npqrstvwxyz', len(subject) - 4)}"}
        self._twins: dict[str, str] = {}
        for value in itertools.chain.from_iterable(theirs.values.values()):
            self.of(value)

    def of(self, value: str) -> str:
        """Return the twin of a value."""
        if value not in self._twins:
            self._twins[value] = self._made(value)
        return self._twins[value]

    def hidden(self, text: str) -> str:
        """Return a text with every value and twin in it covered."""
        known = {*self._twins, *self._twins.values(), *self._marks, *self._marks.values()}
        for value in sorted(known, key=len, reverse=True):
            text = text.replace(value, "<value>")
        return text

    def _made(self, value: str) -> str:
        for theirs, other in self._marks.items():
            if theirs in value:
                return value.replace(theirs, other)
        # The end of an id is what nobody can guess; of a token it is its content, which its seal is of.
        kept, end = value[:-6], value[-6:]
        return kept + "".join(map(_other, end))


def mark(letters: str, length: int = 12) -> str:
    """Return a random word of some letters: words of other letters are equally far from everything else."""
    return "".join(secrets.choice(letters) for _ in range(length))


def _other(character: str) -> str:
    if character in _HEX:
        alike = [digit for digit in _HEX if digit != character and digit.isdigit() == character.isdigit()]
        return secrets.choice(alike)
    return "q" if character != "q" else "w"


@dataclass(frozen=True)
class Attempt:
    """One request, made with what belongs to theirs and made with the twins."""

    method: str
    put: tuple[tuple[Reference, str], ...]
    """The fields that name something of theirs, and what they name."""
    foreign: Sequence[Message]
    twin: Sequence[Message]
    foreign_headers: tuple[tuple[str, str], ...] = ()
    twin_headers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        named = ", ".join(f"{'.'.join(reference.path)} = {value}" for reference, value in self.put)
        return f"{self.method}({named or dict(self.foreign_headers)})"


class Attempts:
    """Generates attempts, the same ones for the same seed."""

    def __init__(self, ours: Group, theirs: Group, twins: Twins, seed: int) -> None:
        self._ours = ours
        self._theirs = theirs
        self._twins = twins
        self._random = random.Random(seed)

    def each_once(self) -> Iterator[Attempt]:
        """Yield one attempt for every method, and one for each of its fields that names something."""
        for name, method in public_rpcs().items():
            yield self._attempt(name, (), header=True)
            for reference in references_of(method):
                yield self._attempt(name, (reference,))

    def mixed(self, number: int) -> Iterator[Attempt]:
        """Yield a number of attempts at any method, with one to three fields that name something of theirs."""
        doors = [(name, found) for name, method in public_rpcs().items() if (found := references_of(method))]
        # A method with many fields has as many combinations; one with a single field is soon known.
        weights = [min(len(found), 12) for _, found in doors]
        for _ in range(number):
            [(name, found)] = self._random.choices(doors, weights)
            chosen = self._random.sample(found, min(len(found), self._random.choice((1, 1, 2, 2, 3))))
            yield self._attempt(name, tuple(chosen), header=self._random.random() < 0.02)

    def _attempt(self, name: str, references: tuple[Reference, ...], *, header: bool = False) -> Attempt:
        put = tuple((reference, self._value(reference)) for reference in references)
        twins = tuple((reference, self._twins.of(value)) for reference, value in put)
        group = self._theirs.name
        return Attempt(
            name,
            put,
            self._requests(name, put),
            self._requests(name, twins),
            ((HEADER, group),) if header else (),
            ((HEADER, self._twins.of(group)),) if header else (),
        )

    def _requests(self, name: str, put: Sequence[tuple[Reference, str]]) -> list[Message]:
        messages = [message_of(name, **fields) for fields in base_request(name, self._ours)]
        for reference, value in put:
            # Of what is streamed, the message that carries the field; if none does, the first one.
            carriers = [one for one in messages if reference.path[0] in {field.name for field, _ in one.ListFields()}]
            _put((carriers or messages)[0], reference.path, value, self._ours)
        return messages

    def _value(self, reference: Reference) -> str:
        values = self._theirs.values
        if self._random.random() < 0.9 and reference.kind in values:
            return self._random.choice(values[reference.kind])
        return self._random.choice(values[self._random.choice(sorted(values))])


def _put(message: Any, path: Sequence[str], value: str, ours: Group) -> None:
    field = message.DESCRIPTOR.fields_by_name[path[0]]
    held = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _put_in_map(held, field.message_type, path[1], value, ours)
    elif len(path) > 1:
        if field.is_repeated:
            held = held[0] if held else held.add()
        held.SetInParent()
        _put(held, path[1:], value, ours)
    elif field.is_repeated:
        held[:] = [value, *held[1:]]
    else:
        setattr(message, field.name, value.encode() if field.type == FieldDescriptor.TYPE_BYTES else value)


def _put_in_map(held: Any, entry: Descriptor, part: str, value: str, ours: Group) -> None:
    kept: Mapping[str, Any] = dict(held)
    held_type = entry.fields_by_name["value"]
    if part == "value":
        held[next(iter(kept), ours.one("label_key"))] = value
    elif held_type.message_type is not None:
        held[value].SetInParent()
    else:
        first = next(iter(kept.values()), ours.one("label_value"))
        held.clear()
        held[value] = first
