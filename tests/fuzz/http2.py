"""Connections that break the rules of HTTP/2, of HPACK, or of gRPC on top of them, frame by frame."""

import asyncio
import contextlib
import functools
import gzip
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

Header: TypeAlias = tuple[str, str]
Attack: TypeAlias = Callable[[random.Random], Iterator[bytes]]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_OPENING = PREFACE + SettingsFrame().serialize()
_PATH = "/coxswain.auth.v1.AuthService/WhoAmI"
_STREAMING_PATH = "/coxswain.memory.v1.DocumentService/SaveDocument"
_FLOOD = 5_000
_WRITE_SECONDS = 5.0
# How long a peer that says nothing more is listened to.
_LISTEN_SECONDS = 0.3


async def play(attack: Attack, address: str, rng: random.Random) -> None:
    """Connect, send what an attack sends as long as the peer takes it, listen for a moment, and hang up."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    listening = asyncio.create_task(_listen(reader))
    try:
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(_WRITE_SECONDS):
                for data in attack(rng):
                    writer.write(data)
                    await writer.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LISTEN_SECONDS):
                await listening
    finally:
        listening.cancel()
        writer.transport.abort()


async def _listen(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(65536):
            pass


def _raw(kind: int, flags: int, stream: int, body: bytes, length: int | None = None) -> bytes:
    """Return a frame whose length may lie."""
    size = len(body) if length is None else length
    return struct.pack(">I", size)[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + body


def _request_headers(path: str = _PATH, /, **changed: str | None) -> list[Header]:
    """Return the headers of a call.

    Names of `changed` ones have `_` for `-`, and a leading `_` for `:`; None leaves a header out.
    """
    headers: dict[str, str] = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "127.0.0.1",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    for key, value in changed.items():
        name = f":{key[1:]}" if key.startswith("_") else key.replace("_", "-")
        if value is None:
            headers.pop(name)
        else:
            headers[name] = value
    return list(headers.items())


def _open(stream: int, headers: Sequence[Header], flags: Sequence[str] = ("END_HEADERS",)) -> bytes:
    return _headers_frame(stream, Encoder().encode(headers), flags)


def _headers_frame(stream: int, block: bytes, flags: Sequence[str] = ("END_HEADERS",)) -> bytes:
    frame = HeadersFrame(stream, data=block)
    for flag in flags:
        frame.flags.add(flag)
    return frame.serialize()


def _data(stream: int, body: bytes, *, end: bool = True) -> bytes:
    frame = DataFrame(stream, data=body)
    if end:
        frame.flags.add("END_STREAM")
    return frame.serialize()


def _message(body: bytes, flag: int = 0, length: int | None = None) -> bytes:
    return struct.pack(">BI", flag & 0xFF, len(body) if length is None else length) + body


def _rubbish(rng: random.Random) -> Iterator[bytes]:
    yield rng.choice(
        (
            rng.randbytes(3_000),
            b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            PREFACE[: rng.randrange(len(PREFACE))],
            PREFACE + rng.randbytes(500),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(500),
            b"\0" * 100_000,
            b"",
        )
    )


def _mutated_call(rng: random.Random) -> Iterator[bytes]:
    """A good call, some of whose bytes are changed, left out or put in."""
    sent = bytearray(_OPENING + _open(1, _request_headers()) + _data(1, _message(b"")))
    for _ in range(rng.randrange(1, 8)):
        place = rng.randrange(len(PREFACE), len(sent))
        match rng.randrange(3):
            case 0:
                sent[place] ^= 1 << rng.randrange(8)
            case 1:
                del sent[place : place + rng.randrange(1, 12)]
            case _:
                sent[place:place] = rng.randbytes(rng.randrange(1, 12))
        if len(sent) <= len(PREFACE):
            break
    yield bytes(sent)


def _truncated(rng: random.Random) -> Iterator[bytes]:
    sent = _OPENING + _open(1, _request_headers()) + _data(1, _message(b"x" * 500))
    yield sent[: rng.randrange(len(PREFACE), len(sent))]


def _wrong_sizes(rng: random.Random) -> Iterator[bytes]:
    yield _OPENING
    yield rng.choice(
        (
            _raw(0, 0, 1, b"x" * 20_000, 2**24 - 1),
            _raw(0, 0, 1, b"x" * 70_000),
            _raw(4, 0, 0, b"x" * 5),
            _raw(4, 1, 0, b"x" * 6),
            _raw(8, 0, 0, b"xxx"),
            _raw(6, 0, 0, b"x" * 7),
            _raw(3, 0, 1, b""),
            _raw(7, 0, 0, b"x"),
            _raw(2, 0, 1, b"x" * 4),
            _raw(1, 0x8, 1, b"\xff"),
            _raw(0, 0x8, 1, b"\xff" + b"x" * 10),
            _raw(1, 0x20 | 0x4, 1, b"\0\0\0\1"),
        )
    )


def _bad_hpack(rng: random.Random) -> Iterator[bytes]:
    yield _OPENING
    block = rng.choice(
        (
            b"\xff" * 40,
            b"\xff\xff\xff\xff\xff\x7f",
            b"\x80",
            b"\xc0",
            b"\x3f" + b"\xff" * 5 + b"\x0f",
            b"\x3f\xe1\xff\xff\x07" * 100,
            b"\x00\x85\xff\xff\xff\xff\xff\x01x",
            b"\x00\x7f\xff\xff\xff\x07",
            b"\x40\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
            rng.randbytes(rng.randrange(1, 200)),
            Encoder().encode(_request_headers())[:-3],
        )
    )
    yield _headers_frame(1, block, ("END_HEADERS", "END_STREAM"))
    yield _open(3, _request_headers())


def _continuations(rng: random.Random) -> Iterator[bytes]:
    yield _OPENING
    if rng.random() < 0.2:
        yield ContinuationFrame(1, data=b"x").serialize()
    yield _headers_frame(1, Encoder().encode(_request_headers()), ())
    body = rng.choice((b"", b"\0\x01a\x01b", b"\x10\x04junk\x04junk" * 50))
    frame = ContinuationFrame(1, data=body).serialize()
    for _ in range(_FLOOD // 100):
        yield frame * 100
    if rng.random() < 0.3:
        yield _data(1, b"in between")


def _flood(rng: random.Random) -> Iterator[bytes]:
    settings = SettingsFrame(
        settings={rng.choice((1, 2, 3, 4, 5, 6, 99)): rng.choice((0, 1, 2**14, 2**31 - 1, 2**32 - 1))}
    )
    frames: tuple[Frame, ...] = (
        settings,
        SettingsFrame(),
        PingFrame(opaque_data=b"12345678"),
        PriorityFrame(1, depends_on=0, stream_weight=1),
        PriorityFrame(1, depends_on=1, stream_weight=255),
        WindowUpdateFrame(0, window_increment=1),
        RstStreamFrame(1, error_code=8),
        GoAwayFrame(last_stream_id=0, additional_data=b"x" * 1_000),
    )
    yield _OPENING
    data = rng.choice((rng.choice(frames).serialize(), _data(1, b"", end=False), _raw(0xBA, 0xFF, 7, b"unknown")))
    if rng.random() < 0.5:
        yield _open(1, _request_headers(_STREAMING_PATH))
    for _ in range(_FLOOD // 100):
        yield data * 100


def _windows(rng: random.Random) -> Iterator[bytes]:
    """A peer that takes nothing, overflows the window, or asks for frames that may not be."""
    first = SettingsFrame(
        settings=rng.choice(({4: 0}, {4: 2**31 - 1}, {5: 2**24 - 1}, {3: 0}, {1: 0}, {6: 0}, {6: 10}))
    ).serialize()
    yield PREFACE + first
    for stream in range(1, 40, 2):
        yield _open(stream, _request_headers()) + _data(stream, _message(b""))
    if rng.random() < 0.5:
        yield WindowUpdateFrame(rng.choice((0, 1)), window_increment=2**31 - 1).serialize() * 3
    else:
        yield _raw(8, 0, rng.choice((0, 1)), b"\0\0\0\0")


def _many_headers(rng: random.Random) -> Iterator[bytes]:
    yield _OPENING
    encoder = Encoder()
    block = encoder.encode(_request_headers())
    match rng.randrange(4):
        case 0:
            # One long header that is kept by the other side, and then named many times over with a byte each.
            block += b"\x40\x01k" + b"\x7f\xa1\x1e" + b"v" * 4_000 + b"\xbe" * 8_000
        case 1:
            block += b"\0\x01a\x01b" * 3_000
        case 2:
            block += b"".join(
                b"\0" + _length(7, 200) + bytes([97 + index % 26]) * 200 + b"\x01b" for index in range(60)
            )
        case _:
            block += b"\0\x01a" + _length(7, 12_000) + b"v" * 12_000
    yield _headers_frame(1, block[:16_000], ())
    for start in range(16_000, len(block), 16_000):
        yield ContinuationFrame(1, data=block[start : start + 16_000]).serialize()
    end = ContinuationFrame(1, data=b"")
    end.flags.add("END_HEADERS")
    yield end.serialize() + _data(1, _message(b""))


def _length(bits: int, value: int) -> bytes:
    """Return an integer of HPACK with a prefix of some bits."""
    most = 2**bits - 1
    encoded = bytearray([most])
    value -= most
    while value >= 128:
        encoded.append(value % 128 + 128)
        value //= 128
    encoded.append(value)
    return bytes(encoded)


def _rapid_reset(rng: random.Random) -> Iterator[bytes]:
    yield _OPENING
    encoder = Encoder()
    headers = _request_headers(rng.choice((_PATH, _STREAMING_PATH, "/grpc.health.v1.Health/Watch")))
    for start in range(0, 2_000, 50):
        yield b"".join(
            _headers_frame(stream, encoder.encode(headers)) + RstStreamFrame(stream, error_code=8).serialize()
            for stream in range(2 * start + 1, 2 * start + 101, 2)
        )


def _stream_ids(rng: random.Random) -> Iterator[bytes]:
    call, body = _request_headers(), _message(b"")
    yield _OPENING
    match rng.randrange(8):
        case 0:
            yield _open(2, call)
        case 1:
            yield _raw(1, 0x5, 0, Encoder().encode(call))
        case 2:
            yield _open(9, call) + _open(3, call)
        case 3:
            yield _open(1, call) + _data(1, body) + _data(1, body) + _open(1, call)
        case 4:
            yield _open(2**31 - 1, call) + _data(2**31 - 1, body) + _open(1, call)
        case 5:
            yield PushPromiseFrame(1, promised_stream_id=2, data=Encoder().encode(call)).serialize()
        case 6:
            yield _data(77, body) + _raw(0, 1, 0, b"x")
        case _:
            yield b"".join(_open(stream, call) for stream in range(1, 600, 2))


@functools.cache
def _bomb() -> bytes:
    return gzip.compress(b"\0" * 50_000_000)


def _messages(rng: random.Random) -> Iterator[bytes]:
    """Messages whose frames of gRPC lie."""
    body, encoding = rng.choice(
        (
            (_message(b"abc", length=2**32 - 1), ""),
            (_message(b"abc", length=100), ""),
            (_message(b"abc", length=1), ""),
            (_message(b"abc", flag=1), ""),
            (_message(b"abc", flag=1), "gzip"),
            (_message(b"abc", flag=1), "deflate"),
            (_message(b"abc", flag=0x7F), ""),
            (_message(_bomb(), flag=1), "gzip"),
            (_message(gzip.compress(b""), flag=1), "gzip"),
            (_message(b"", flag=1), "identity"),
            (_message(b"", flag=1), "rot13"),
            (_message(b"") * 3, ""),
            (b"", ""),
            (b"\0\0", ""),
            (_message(rng.randbytes(200)), ""),
        )
    )
    path = rng.choice((_PATH, _STREAMING_PATH))
    yield _OPENING + _open(
        1, _request_headers(path, grpc_encoding=encoding or None) if encoding else _request_headers(path)
    )
    pieces = [body[start : start + 16_000] for start in range(0, len(body), 16_000)] or [b""]
    for piece in pieces[:-1]:
        yield _data(1, piece, end=False)
    yield _data(1, pieces[-1], end=rng.random() < 0.8)


def _odd_headers(rng: random.Random) -> Iterator[bytes]:
    timeouts = (
        "99999999H",
        "0n",
        "-1S",
        "1",
        "S",
        "999999999999999999999S",
        "1.5S",
        "",
        "1x",
        "+1S",
        " 1S",
        "00000000m",
        "1S1S",
    )
    paths = (
        "",
        "/",
        "//",
        "*",
        "no/slash",
        "/a/b/c",
        "/" + "x" * 8_000,
        "/coxswain.auth.v1.AuthService/",
        "/?x=1",
        _PATH + "/",
        _PATH + "\x7f",
    )
    types = (
        "",
        "text/html",
        "application/grpc+json",
        "application/grpc;x",
        "application/grpcx",
        "application/json",
        "x" * 2_000,
    )
    more: list[Header] = []
    changed: dict[str, str | None] = {}
    match rng.randrange(8):
        case 0:
            changed["grpc_timeout"] = rng.choice(timeouts)
        case 1:
            changed["_path"] = rng.choice(paths)
        case 2:
            changed["content_type"] = rng.choice(types)
        case 3:
            changed["_method"] = rng.choice(("GET", "PUT", "CONNECT", "", "post", "\xff"))
        case 4:
            changed[rng.choice(("_path", "_method", "_scheme", "_authority", "te", "content_type"))] = None
        case 5:
            more = [
                (
                    rng.choice((":path", ":method", "te", "content-type", ":odd", "UPPER", "", "a b", "grpc-timeout")),
                    "x",
                )
            ]
        case 6:
            more = [
                (
                    rng.choice(("grpc-status", "grpc-message", "grpc-tags-bin", "grpc-trace-bin", "x-bin")),
                    rng.choice(("0", "%%%", "=", "\x00", "é")),
                )
            ]
        case _:
            more = [
                ("connection", "close"),
                ("transfer-encoding", "chunked"),
                ("grpc-previous-rpc-attempts", "99999999999"),
            ]
    yield _OPENING + _open(1, [*_request_headers(**changed), *more]) + _data(1, _message(b""))


def _half_open(rng: random.Random) -> Iterator[bytes]:
    """Calls that are begun, on a connection that is then left without a word."""
    yield _OPENING
    path = rng.choice(
        (
            _PATH,
            _STREAMING_PATH,
            "/grpc.health.v1.Health/Watch",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        )
    )
    for stream in range(1, 100, 2):
        yield _open(stream, _request_headers(path)) + _data(stream, _message(b"", length=5), end=False)


ATTACKS: dict[str, Attack] = {
    "rubbish": _rubbish,
    "a mutated call": _mutated_call,
    "a truncated call": _truncated,
    "frames of wrong sizes": _wrong_sizes,
    "bad HPACK": _bad_hpack,
    "continuations without end": _continuations,
    "a flood of frames": _flood,
    "odd windows": _windows,
    "many headers": _many_headers,
    "rapid resets": _rapid_reset,
    "odd ids of streams": _stream_ids,
    "messages that lie": _messages,
    "odd headers": _odd_headers,
    "half-open calls": _half_open,
}


async def assault(address: str, seed: int, rounds: int, at_once: int = 4) -> None:
    """Play each attack `rounds` times, `at_once` at a time, in an order that is the seed's."""
    planned = [(name, number) for number in range(rounds) for name in ATTACKS]
    random.Random(seed).shuffle(planned)
    waiting = iter(planned)

    async def work() -> None:
        for name, number in waiting:
            await play(ATTACKS[name], address, random.Random(f"{seed}/{name}/{number}"))

    await asyncio.gather(*(work() for _ in range(at_once)))
