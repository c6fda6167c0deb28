"""Calls, each made from a seed and its number alone (and from what earlier answers have named)."""

import base64
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.kept import Kept
from tests.fuzz.requests import Maker
from tests.fuzz.samples import SAMPLES
from tests.fuzz.wire import break_texts, mutated
from tests.support.every_rpc import callers_of, every_rpc, is_internal
from tests.support.served_methods import foreign_name, served_methods

_FOREIGN = {foreign_name(served.method): served for served in served_methods() if served.foreign}
METHODS = every_rpc() | {name: served.method for name, served in _FOREIGN.items()}
_WAITING = {name for name, served in _FOREIGN.items() if served.access.waits}
OF_A2A = _FOREIGN.keys()
"""Methods of the protocol A2A."""
_NAMES = sorted(METHODS)
_CALLS_OF_A_GROUP = 3_000
_A2A_VERSION = {"A2A": [("a2a-version", "1.0")]}
_MANNERS = {"plain": 38, "spoilt": 34, "wild": 13, "mutated": 15}

# A token whose header and claims are JSON that is nested too deeply for most parsers.
_DEEP_JWT = ".".join([base64.urlsafe_b64encode(b"[" * 10_000).decode().rstrip("=")] * 2 + ["AAAA"])
_ODD_TOKENS = (
    "dev:",
    "dev:eve",
    "dev:eve:",
    "dev:eve:a=emperor",
    "dev:eve:a=admin,b=admin",
    "dev:e|v|e:a=admin",
    "dev:" + "e" * 4_000 + ":a=admin",
    "dev::a=admin",
    "dev:eve:A B=admin",
    "eyJhbGciOiJub25lIn0.e30.",
    _DEEP_JWT,
    "a.b.c",
    "....",
    "",
    " ",
    "=?utf-8?q?dev?=",
)


@dataclass(frozen=True)
class Plan:
    """One call, ready to be made."""

    number: int
    method: str
    """`Service.Method`."""
    manner: str
    requests: Sequence[bytes]
    """One, or for a method that streams them any number."""
    metadata: Sequence[tuple[str, str | bytes]]
    """What is sent beside the identity of `caller`."""
    caller: str = ""
    """The service that makes the call of an internal method; "" for a caller from outside."""
    odd_identity: bool = False
    """Whether `metadata` says who calls, or nothing does: no credential is added."""
    group: str = ""
    deadline: float | None = None
    """Seconds after which the caller gives up; None for as long as a call may take."""
    cancel_after: float | None = None
    """Seconds after which the caller cancels."""
    take: int = 0
    """Answers of a stream that are read before it is cancelled; 0 for all that come."""
    half_close: bool = True
    """Whether a stream of requests is ended after the last of them."""
    request_pause: float = 0.0

    def save(self, file: Path) -> None:
        """Write all of it, so that `load` finds the same call again."""
        values = {**vars(self), "requests": [base64.b64encode(data).decode() for data in self.requests]}
        values["metadata"] = [[key, _text(value)] for key, value in self.metadata]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values, indent=1))

    @staticmethod
    def load(file: Path) -> "Plan":
        """Read what `save` wrote."""
        values: dict[str, Any] = json.loads(file.read_text())
        values["requests"] = [base64.b64decode(data) for data in values["requests"]]
        values["metadata"] = [
            (key, base64.b64decode(value) if key.endswith("-bin") else value) for key, value in values["metadata"]
        ]
        return Plan(**values)


class Planner:
    """Plans calls of every method in turn, or of some."""

    def __init__(self, seed: int, kept: Kept, methods: Sequence[str] = ()) -> None:
        self._seed = seed
        self._kept = kept
        self._methods = methods or _NAMES

    def plan(self, number: int) -> Plan:
        """Return call `number`."""
        rng = random.Random(f"{self._seed}/{number}")
        name = self._methods[number % len(self._methods)] if rng.random() < 0.7 else rng.choice(self._methods)
        method = METHODS[name]
        manner = rng.choices(list(_MANNERS), list(_MANNERS.values()))[0]
        maker = Maker(name, method, self._kept, rng)
        internal = is_internal(method)
        odd = rng.random() < 0.04
        streams = method.client_streaming or method.server_streaming
        return Plan(
            number=number,
            method=name,
            manner=manner,
            requests=self._requests(name, maker, manner, rng),
            metadata=[*_metadata(rng, odd, internal), *_A2A_VERSION.get(name.partition(".")[0], ())],
            caller=rng.choice(callers_of(method)) if internal else "",
            odd_identity=odd,
            group=f"fuzz-{self._seed % 100_000}-{number // _CALLS_OF_A_GROUP}",
            deadline=rng.choice((0.001, 0.02, 0.3)) if rng.random() < 0.03 else None,
            # A stream, or a call that waits, may rightly have no end: what is open for long says nothing more.
            cancel_after=rng.uniform(0.0, 1.5) if streams or name in _WAITING or rng.random() < 0.03 else None,
            take=rng.choice((0, 0, 1, 3)) if method.server_streaming else 0,
            half_close=rng.random() < 0.85,
            request_pause=rng.choice((0.0, 0.0, 0.0, 0.05)),
        )

    def _requests(self, name: str, maker: Maker, manner: str, rng: random.Random) -> Sequence[bytes]:
        if not METHODS[name].client_streaming:
            return [_request(maker, manner, rng)]
        if name in SAMPLES and rng.random() < 0.5:
            requests = [break_texts(message.SerializePartialToString()) for message in maker.in_order()]
            if manner == "mutated":
                spoilt = rng.randrange(len(requests))
                requests[spoilt] = mutated(requests[spoilt], rng)
            return requests
        # Missing first frames, odd orders, nothing at all: each frame is made as if it were alone.
        count = rng.choice((0, 1, 2, 2, 3, 5, 40))
        manners = [manner if rng.random() < 0.5 else "plain" for _ in range(count)]
        return [_request(maker, each, rng) for each in manners]


def _request(maker: Maker, manner: str, rng: random.Random) -> bytes:
    message = {"plain": maker.plain, "spoilt": maker.spoilt, "wild": maker.wild, "mutated": maker.plain}[manner]()
    data = break_texts(message.SerializePartialToString())
    return mutated(data, rng) if manner == "mutated" else data


def _metadata(rng: random.Random, odd_identity: bool, internal: bool) -> list[tuple[str, str | bytes]]:
    found: list[tuple[str, str | bytes]] = []
    if rng.random() < 0.1:
        found.append(
            rng.choice(
                (
                    ("x-request-id", rng.choice(("r" * 5_000, "", "a b,c", "%00%0a", "~{}"))),
                    ("x-odd-bin", rng.randbytes(rng.randrange(0, 300))),
                    ("grpc-status-details-bin", rng.randbytes(20)),
                    ("traceparent", "00-" + "f" * 32 + "-" + "f" * 16 + "-ff"),
                    ("x-long", "v" * rng.choice((100, 4_000, 7_000))),
                    ("user-agent", "odd/1 (" + "x" * 300 + ")"),
                    ("content-encoding", "gzip"),
                )
            )
        )
    if odd_identity:
        headers = ["authorization", "x-forwarded-access-token", "x-group-id"]
        headers += ["x-coxswain-service", "x-coxswain-principal"] * (2 if internal else 1)
        for header in rng.sample(headers, rng.choice((0, 1, 2))):
            token = rng.choice(_ODD_TOKENS)
            found.append((header, f"Bearer {token}" if header == "authorization" and rng.random() < 0.8 else token))
        if found and rng.random() < 0.2:
            found.append(found[-1])
    return found


def _text(value: str | bytes) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
