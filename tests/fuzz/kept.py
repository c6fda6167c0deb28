"""What answers have named, so that later requests can name things that exist."""

import re
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message

_KEPT_FOR_EACH_NAME = 30
_LONGEST = 4_000
_MOST_VALUES = 300
_WORD = re.compile(r"(?<!^)(?=[A-Z])")


class Kept:
    """Texts of answers, by the names of fields that take them."""

    def __init__(self) -> None:
        self._texts: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=_KEPT_FOR_EACH_NAME))

    def add(self, name: str, text: str) -> None:
        """Keep a text for fields of a name."""
        self._texts[name].append(text)

    def harvest(self, answer: Message) -> None:
        """Keep the texts of an answer that requests may repeat."""
        for index, (message, field, text) in enumerate(_texts(answer)):
            if index == _MOST_VALUES:
                return
            if not text or len(text) > _LONGEST:
                continue
            for name in _names(message, field):
                if text not in self._texts[name]:
                    self._texts[name].append(text)

    def known(self, method: str, owner: str, field: Field) -> Sequence[str]:
        """Return texts for a field of the message `owner` in a request of `Service.Method`."""
        if field.name in {"id", "ids", "name", "names"}:
            service = method.partition(".")[0]
            noun = "task" if service.startswith("A2A") else _snake(service.removesuffix("Service"))
            part = field.name.removesuffix("s")
            return [*self._texts[f"{noun}_{part}"], *self._texts[f"{_snake(owner)}_{part}"]]
        return list(self._texts[field.name.removesuffix("s") if field.is_repeated else field.name])


def _names(message: str, field: str) -> Iterator[str]:
    noun = _snake(message)
    if field in {"id", "name"}:
        yield f"{noun}_{field}"
        yield noun
    elif field.startswith("next_"):
        yield field.removeprefix("next_")
    else:
        yield field


def _snake(name: str) -> str:
    return _WORD.sub("_", name).lower()


def _texts(message: Message) -> Iterator[tuple[str, str, str]]:
    for field, value in message.ListFields():
        values: Any = value if field.is_repeated else [value]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        for item in values:
            if isinstance(item, str):
                yield message.DESCRIPTOR.name, field.name, item
            elif isinstance(item, Message):
                yield from _texts(item)
