"""Bytes on the wire that no generated client sends."""

import random
from collections.abc import Callable

from tests.fuzz.values import BROKEN_TEXT

# Both halves of an emoji, as texts that were cut in UTF-16 hold them: as many bytes as what they replace.
_HALVES = b"\xed\xa0\xbd\xed\xb8\x80"
_VARINT, _FIXED64, _LENGTH, _GROUP, _END_GROUP, _FIXED32 = range(6)


def break_texts(data: bytes) -> bytes:
    """Put bytes that are not UTF-8 where a text stands for them."""
    return data.replace(BROKEN_TEXT.encode(), _HALVES)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes of a message with something done to them."""
    return rng.choice(_MUTATIONS)(data, rng)


def _flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(rng.randrange(1, 6)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncated(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _cut_out(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randrange(1, 9) :]


def _filled_in(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.randrange(1, 9)) + data[place:]


def _twice(data: bytes, rng: random.Random) -> bytes:
    return data + data


def _repeated_part(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    part = data[start : start + rng.randrange(1, 64)]
    return data[:start] + part * rng.randrange(2, 50) + data[start:]


def _unknown_fields(data: bytes, rng: random.Random) -> bytes:
    extra = b"".join(
        _tag(rng.choice((1_000, 19_999, 2**29 - 1)), _VARINT) + _varint(rng.getrandbits(64))
        for _ in range(rng.randrange(1, 200))
    )
    return data + extra


def _wrong_types(data: bytes, rng: random.Random) -> bytes:
    content = {
        _VARINT: _varint(rng.getrandbits(64)),
        _FIXED64: rng.randbytes(8),
        _LENGTH: _varint(3) + b"\xff\xfe\xfd",
        _FIXED32: rng.randbytes(4),
    }
    kind = rng.choice(list(content))
    return data + _tag(rng.randrange(1, 20), kind) + content[kind]


def _too_long(data: bytes, rng: random.Random) -> bytes:
    return data + _tag(rng.randrange(1, 20), _LENGTH) + _varint(rng.choice((2**20, 2**31 - 1, 2**32, 2**63)))


def _endless_varint(data: bytes, rng: random.Random) -> bytes:
    return data + _tag(rng.randrange(1, 20), _VARINT) + b"\xff" * rng.randrange(9, 30)


def _groups(data: bytes, rng: random.Random) -> bytes:
    depth = rng.choice((1, 50, 99, 101, 20_000))
    number = rng.randrange(1, 20)
    closed = depth if rng.random() < 0.5 else 0
    return data + _tag(number, _GROUP) * depth + _tag(number, _END_GROUP) * closed


def _nested(data: bytes, rng: random.Random) -> bytes:
    """Wrap nothing in the same field many times over, as deep lists of JSON are wrapped."""
    number = rng.randrange(1, 12)
    nested = b""
    for _ in range(rng.choice((20, 90, 400))):
        nested = _tag(number, _LENGTH) + _varint(len(nested)) + nested
    return data + nested


def _many_of_one(data: bytes, rng: random.Random) -> bytes:
    return data + (_tag(rng.randrange(1, 20), _LENGTH) + b"\0") * rng.choice((1_000, 10_000, 100_000))


def _rubbish(_data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((1, 3, 50, 2_000)))


def _tag(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flipped,
    _flipped,
    _truncated,
    _cut_out,
    _filled_in,
    _twice,
    _repeated_part,
    _unknown_fields,
    _wrong_types,
    _too_long,
    _endless_varint,
    _groups,
    _nested,
    _many_of_one,
    _rubbish,
)
