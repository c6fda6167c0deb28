"""Values of single fields: such as a caller would send, and such as nobody should."""

import math
import random
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Field

BROKEN_TEXT = "\ue0f0\ue0f1"
"""Stands for bytes that are not UTF-8, which no message takes: `wire.break_texts` puts them in its place."""

LONG = 70_000
_INTEGER_BITS = {
    Field.TYPE_INT32: 32,
    Field.TYPE_SINT32: 32,
    Field.TYPE_SFIXED32: 32,
    Field.TYPE_UINT32: 32,
    Field.TYPE_FIXED32: 32,
    Field.TYPE_INT64: 64,
    Field.TYPE_SINT64: 64,
    Field.TYPE_SFIXED64: 64,
    Field.TYPE_UINT64: 64,
    Field.TYPE_FIXED64: 64,
}
_UNSIGNED = {Field.TYPE_UINT32, Field.TYPE_FIXED32, Field.TYPE_UINT64, Field.TYPE_FIXED64}

# Forms that the patterns of the protos ask for; those that fit are taken.
PLAIN_TEXTS = (
    "a",
    "fuzz",
    "notes",
    "offline/extract",
    "offline/embed",
    "a/b",
    "tools/key",
    "postgresql/main",
    "llm/openai",
    "dev|alice",
    "text/plain",
    "https://example.com",
    "https://example.com/v1",
    "http://127.0.0.1:9/v1",
    "",
    "example.com",
    "a.b.c",
    "main.memories.unified",
    "Some words of plain text, and {text} too.",
    "0 6 * * *",
    "Europe/Berlin",
    "UTC",
    "00000000-0000-4000-8000-000000000000",
    "application/pdf",
    "note.md",
    "{}",
    '{"type": "object"}',
    "Straße 中文 🙂",
    "2020-01-01",
)
BY_NAME: dict[str, Sequence[str]] = {
    "model": ("offline/extract",),
    "agent": ("worker",),
    "memory_id": ("fuzz", "crew"),
    "cron": ("0 6 * * *",),
    "time_zone": ("UTC", "Europe/Berlin"),
    "subject": ("dev|alice", "dev|bob"),
    "description": ("Read: {text}", "Words"),
    "expected_output": ("A line",),
    "scope": ("/", "/a", "/a/b"),
    "parent": ("/", "/a"),
    "upstream_model": ("own",),
}
"""What fits fields of these names better than any other plain text."""

_HOSTILE_TEXTS: tuple[Callable[[random.Random], str], ...] = (
    lambda _: "\0",
    lambda _: "od\0d",
    lambda _: BROKEN_TEXT,
    lambda _: "k" * LONG,
    lambda _: "ß中🙂" * 6_000,
    lambda _: "one-" * 1_000,
    lambda _: "." * 6_000 + "x",
    lambda _: "[" * 40_000,
    lambda _: '{"a":' * 5_000,
    lambda _: '{"a": ' + "9" * 5_000 + "}",
    lambda _: "9" * 5_000,
    lambda _: "1e400",
    lambda _: "-1",
    lambda _: "{" * 500 + "}" * 500,
    lambda _: "{text!r:>{width}}",
    lambda _: "%s%n%x %(a)s",
    lambda _: "'; DROP TABLE crews; --",
    lambda _: "a' OR '1'='1",
    lambda _: "%_\\%",
    lambda _: "../../../etc/passwd",
    lambda _: "/",
    lambda _: "//",
    lambda _: "\\" * 300,
    lambda _: "\r\nx-group-id: other",
    lambda _: "\x1b[31m\x07\x9b",
    lambda _: "\u202e\u2066\u200d\ufeff",
    lambda _: "\U0010ffff\ufffe\uffff",
    lambda _: " \t\n",
    lambda _: "e\u0301" * 2_000,
    lambda _: "http://[::1",
    lambda _: "https://example.com:99999/",
    lambda _: "https://user:password@example.com/?#",
    lambda _: "https://" + "a" * 300 + ".example.com",
    lambda _: "https://xn--\u2603.example/",
    lambda _: "http://0x7f.1/",
    lambda _: "https://[fec0::1]/v1",
    lambda _: "file:///etc/passwd",
    lambda _: "postgresql://h:x/?host=/tmp",
    lambda _: "99 99 * * *",
    lambda _: "*/0 * * * *",
    lambda _: "0 0 31 2 *",
    lambda _: "(a+)+$",
    lambda _: "(((((((((((a*)*)*)*)*)*)*)*)*)*)*)b",
    lambda _: "Etc/../UTC",
    lambda rng: "".join(
        chr(rng.choice((rng.randrange(1, 0xD800), rng.randrange(0xE000, 0x110000))))
        for _ in range(rng.randrange(1, 200))
    ),
    lambda rng: "".join(rng.choice("{}[]()\"'\\/.:;|<>%$#@!&*+=-_ \n\tabc019") for _ in range(rng.randrange(1, 300))),
    lambda rng: "ImZvcmdlZCI" * rng.randrange(1, 20),
)
_HOSTILE_BYTES: tuple[Callable[[random.Random], bytes], ...] = (
    lambda _: b"",
    lambda _: b"\0" * 1_000,
    lambda _: b"\xff\xfe\xfd",
    lambda rng: rng.randbytes(rng.randrange(1, 4_000)),
    lambda _: b"%PDF-1.7\n" + b"<<" * 2_000,
    lambda _: b"PK\x03\x04" + b"\0" * 500,
    lambda _: b"\x1f\x8b\x08\0" + b"\0" * 64,
    lambda _: b"x" * 200_000,
)
_HOSTILE_NUMBERS = (
    math.nan,
    math.inf,
    -math.inf,
    1e308,
    -1e308,
    5e-324,
    -0.0,
    -1.0,
    1e30,
    2.0**53 + 2,
    2.0**63,
    2.0**64,
)


def integer_range(field: Field) -> tuple[int, int]:
    """Return the least and the greatest value of an integer field."""
    bits = _INTEGER_BITS[field.type]
    return (0, 2**bits - 1) if field.type in _UNSIGNED else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def is_integer(field: Field) -> bool:
    """Whether a field holds whole numbers."""
    return field.type in _INTEGER_BITS


def hostile(field: Field, rng: random.Random) -> Any:
    """Return a value for one field (or one item of it) that its type takes and no sensible caller sends."""
    if field.type == Field.TYPE_STRING:
        return rng.choice(_HOSTILE_TEXTS)(rng)
    if field.type == Field.TYPE_BYTES:
        return rng.choice(_HOSTILE_BYTES)(rng)
    if field.type == Field.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type == Field.TYPE_ENUM:
        return rng.choice((-1, 0, 99, 1_000_000, 2**31 - 1, -(2**31), rng.randrange(20)))
    if is_integer(field):
        low, high = integer_range(field)
        return rng.choice((low, high, low + 1, high - 1, 0, 1, min(high, 10_001), rng.randint(low, high)))
    number = rng.choice((*_HOSTILE_NUMBERS, rng.uniform(-1e9, 1e9)))
    return _single(number) if field.type == Field.TYPE_FLOAT else number


def plain_text(name: str, pattern: str, low: int, high: int, known: Sequence[str], rng: random.Random) -> str:
    """Return a text of `low` to `high` characters that fits a pattern, of the `known` ones where one does.

    `name` is the field's.
    """
    matcher = re.compile(pattern) if pattern else None

    def fits(text: str) -> bool:
        return low <= len(text) <= high and (matcher is None or matcher.search(text) is not None)

    for choices in (known, BY_NAME.get(name, ()), PLAIN_TEXTS):
        fitting = [text for text in choices if fits(text)]
        if fitting and (choices is PLAIN_TEXTS or rng.random() < 0.8):
            return rng.choice(fitting)
    return ("a" * max(low, 1))[: max(high, 0)]


def _single(number: float) -> float:
    """Return the number as 32 bits hold it."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", number))[0])
    except OverflowError:
        return math.copysign(math.inf, number)
