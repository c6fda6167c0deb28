"""Tool calls, put together from the pieces that an upstream sends.

Upstreams disagree about streams of tool calls: some repeat id and name in every piece, some give every call the index
0 or none, some send no ids, and some repeat the whole call at the end. What leaves here is always the same: calls
numbered from 0 in the order they began, id and name once and before any arguments, ids that are unique, and arguments
that are never empty.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.models.domain.answer import ToolCallDelta
from services.models.domain.conversation import ToolCall

# Digits.
_LONGEST_INDEX = 10


@dataclass(frozen=True, slots=True)
class ToolCallPiece:
    """What one event says about one tool call."""

    index: int | None
    """Which of the answer's calls, by the upstream's own count."""
    id: str
    name: str
    arguments: str
    """A fragment of the arguments' JSON text."""
    provider_state: str = ""
    """What the provider wants back with the call in the next turn; see `ToolCall`."""


def read_piece(call: Mapping[str, Any]) -> ToolCallPiece:
    """Return the piece that an element of `tool_calls` holds."""
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    extra = call.get("extra_content")
    return ToolCallPiece(
        index=_index(call.get("index")),
        id=_string(call.get("id")),
        name=_string(function.get("name")),
        arguments=_arguments(function.get("arguments")),
        provider_state=json.dumps(extra) if isinstance(extra, dict) and extra else "",
    )


class _JsonBalance:
    """Tells, in time proportional to the text, when a JSON object that arrives in fragments is complete."""

    __slots__ = ("_depth", "_escaped", "_in_string", "_opened")

    def __init__(self) -> None:
        self._depth = 0
        self._opened = False
        self._in_string = False
        self._escaped = False

    @property
    def complete(self) -> bool:
        return self._opened and self._depth <= 0 and not self._in_string

    def feed(self, fragment: str) -> None:
        if self._escaped:
            fragment, self._escaped = fragment[1:], False
        if "\\" in fragment:
            fragment = fragment.replace("\\\\", "")
            # It escapes the first character of the next fragment.
            self._escaped = fragment.endswith("\\")
            fragment = fragment.replace('\\"', "")
        # As a whole rather than sign by sign: an upstream may send millions of them at once.
        parts = fragment.split('"')
        outside = "".join(parts[self._in_string :: 2])
        self._in_string ^= len(parts) % 2 == 0
        opening = outside.count("{") + outside.count("[")
        self._opened = self._opened or opening > 0
        self._depth += opening - outside.count("}") - outside.count("]")


@dataclass(slots=True)
class _Call:
    index: int | None
    upstream_id: str
    name: str
    id: str
    provider_state: str = ""
    number: int = -1
    """Its place among the answer's calls; -1 until its function is known."""
    arguments: list[str] = field(default_factory=list)
    pieces: int = 0
    balance: _JsonBalance = field(default_factory=_JsonBalance)

    def add(self, fragment: str) -> None:
        if fragment:
            self.arguments.append(fragment)
            self.pieces += 1
            self.balance.feed(fragment)

    @property
    def text(self) -> str:
        if len(self.arguments) > 1:
            self.arguments[:] = ["".join(self.arguments)]
        return self.arguments[0] if self.arguments else ""

    @property
    def missing(self) -> str:
        """What has to follow at the end, so that the arguments are JSON."""
        return "" if self.text.strip() else "{}"


class ToolCallAssembler:
    """Assembles the tool calls of one answer."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._announced: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}

    def __bool__(self) -> bool:
        """Whether a tool was called."""
        return bool(self._announced)

    def add(self, piece: ToolCallPiece) -> list[ToolCallDelta]:
        """Take a piece and return what is new by it."""
        if not (piece.id or piece.name or piece.arguments or piece.provider_state):
            return []
        call = self._call_of(piece)
        if call is None:
            call = self._begin(piece)
        elif self._repeats(call, piece):
            return []
        if piece.index is not None:
            self._by_index[piece.index] = call
        call.name = call.name or piece.name
        call.provider_state = call.provider_state or piece.provider_state
        call.add(piece.arguments)
        if not call.name:
            return []
        if call.number >= 0:
            return [ToolCallDelta(call.number, arguments_json=piece.arguments)] if piece.arguments else []
        call.number = len(self._announced)
        self._announced.append(call)
        return [ToolCallDelta(call.number, call.id, call.name, call.text, call.provider_state)]

    def finish(self) -> list[ToolCallDelta]:
        """Return what completes the calls at the end of the answer: arguments where none came."""
        return [ToolCallDelta(call.number, arguments_json=call.missing) for call in self._announced if call.missing]

    def calls(self) -> tuple[ToolCall, ...]:
        """Return the calls as a whole. Fragments that never named a function are left out."""
        return tuple(
            ToolCall(call.id, call.name, call.text + call.missing, call.provider_state) for call in self._announced
        )

    def _call_of(self, piece: ToolCallPiece) -> _Call | None:
        """Return the call that a piece continues; None when it begins one."""
        at_index = self._by_index.get(piece.index) if piece.index is not None else None
        if piece.id:
            known = self._by_id.get(piece.id)
            if known is not None:
                # One id for two calls: an index of its own and a function tell them apart.
                other_index = piece.index is not None and known.index is not None and piece.index != known.index
                return None if other_index and piece.name else known
            # The id of a call that began without one.
            if (
                at_index is not None
                and not (at_index.upstream_id or at_index.balance.complete)
                and piece.name in ("", at_index.name)
            ):
                at_index.upstream_id = piece.id
                self._by_id[piece.id] = at_index
                return at_index
            return None
        current = at_index if piece.index is not None else (self._calls[-1] if self._calls else None)
        if current is None or not piece.name or not current.name:
            return current
        if piece.name != current.name:
            return None
        return current if not current.balance.complete or self._repeats(current, piece) else None

    def _repeats(self, call: _Call, piece: ToolCallPiece) -> bool:
        """Whether a piece says again, as a whole, what came in pieces before."""
        if not piece.arguments or not call.balance.complete or piece.name not in ("", call.name):
            return False
        if not piece.name and not piece.id:
            return False
        # Two equal calls, each in one piece and without ids, are two calls.
        if not piece.id and call.pieces < 2:
            return False
        return piece.arguments == call.text or _same_json(piece.arguments, call.text)

    def _begin(self, piece: ToolCallPiece) -> _Call:
        own = bool(piece.id) and piece.id not in self._by_id
        call = _Call(
            index=piece.index,
            upstream_id=piece.id,
            name=piece.name,
            id=piece.id if own else f"call_{secrets.token_hex(12)}",
        )
        self._calls.append(call)
        if own:
            self._by_id[piece.id] = call
        return call


def _same_json(one: str, other: str) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except (ValueError, RecursionError):
        return False


def _index(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) <= _LONGEST_INDEX:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _arguments(value: Any) -> str:
    """Arguments are JSON text; some upstreams send the object itself."""
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, dict | list) else ""


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""
