"""JSON from outside, parsed within bounds and without holding up other work."""

import asyncio
import json
import math
from collections.abc import Callable
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from typing import Any

MAX_DEPTH = 100
MAX_VALUES = 250_000
MAX_DIGITS = 400

# Less than some 10 ms of work.
_SMALL_BYTES = 32 * 1024


async def parse_json(data: bytes, text: Callable[[str], str] = str) -> Any:
    """Return the value of a JSON document; large ones are parsed in a thread.

    Bytes that are not UTF-8 become U+FFFD. Every text and key passes `text`.

    Raises:
        ValueError: it is not JSON, nested deeper than `MAX_DEPTH`, has more than `MAX_VALUES` values or a number that
            is too large. The message says which, with nothing of the document in it.
    """
    if len(data) <= _SMALL_BYTES:
        return loads_bounded(data, text)
    return await asyncio.to_thread(loads_bounded, data, text)


def loads_bounded(data: bytes, text: Callable[[str], str] = str) -> Any:
    """Return the value of a JSON document; see `parse_json`."""
    decoder = _Decoder(text)
    try:
        # The standard parser written in C would not let another thread run before it is done.
        return decoder.decode(data.decode(errors="replace"))
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON at line {error.lineno}, column {error.colno}") from None


class _Decoder(json.JSONDecoder):
    """The standard decoder in its Python form, which counts. It decodes one document."""

    # What the standard library does not declare.
    parse_object: Any
    parse_array: Any
    parse_string: Any
    scan_once: Any

    def __init__(self, text: Callable[[str], str]) -> None:
        super().__init__(
            object_pairs_hook=self._object,
            parse_int=self._integer,
            parse_float=self._number,
            parse_constant=_no_constant,
        )
        self._text = text
        self._depth = 0
        self._values = 0
        self.parse_object = self._nested(self.parse_object)
        self.parse_array = self._nested(self.parse_array)
        self._scan_string = self.parse_string
        self.parse_string = self._string
        self.scan_once = py_make_scanner(self)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {self._text(key): value for key, value in pairs}

    def _string(self, *arguments: Any) -> Any:
        self._count()
        value, end = self._scan_string(*arguments)
        return self._text(value), end

    def _integer(self, digits: str) -> int:
        self._count()
        if len(digits) > MAX_DIGITS:
            raise ValueError(f"a number has more than {MAX_DIGITS} digits")
        return int(digits)

    def _number(self, digits: str) -> float:
        self._count()
        number = float(digits)
        if not math.isfinite(number):
            raise ValueError("a number is too large")
        return number

    def _nested(self, parse: Any) -> Any:
        def parse_nested(*arguments: Any) -> Any:
            self._count()
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
            found = parse(*arguments)
            self._depth -= 1
            return found

        return parse_nested

    def _count(self) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values")


def _no_constant(_name: str) -> float:
    raise ValueError("NaN and Infinity are not JSON")
