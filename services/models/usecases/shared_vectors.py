"""Vectors that are at hand, or that another call is fetching."""

import asyncio
import copy
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from services.common.background import BackgroundTasks
from services.common.errors import CoxswainError, DeadlineExceeded, FieldViolation, InvalidArgument
from services.models.domain.answer import Embeddings
from services.models.providers.base import TakeBatch
from services.models.usecases.vector_memory import Vector, VectorKey, VectorMemory

Fetch = Callable[[Sequence[str], TakeBatch], Awaitable[None]]

_TEXT_FIELD = re.compile(r"texts\[(\d+)\]")


@dataclass(slots=True, eq=False)
class _Load:
    """Texts on their way, and how many calls wait for them."""

    caller: str
    keys: Sequence[VectorKey]
    vectors: dict[VectorKey, Vector] = field(default_factory=dict)
    waiters: int = 0
    failure: BaseException | None = None


class SharedVectors:
    """Fetches each vector once: it is remembered for its group for a time, and calls of a group share what is fetched.

    What is fetched goes on as long as a call waits for it. A failure is shared by calls of one caller only: another one
    may have other credentials.
    """

    def __init__(self, max_bytes: int, seconds: float) -> None:
        """`max_bytes` bounds what is remembered of all groups, each vector for `seconds`; see `VectorMemory`."""
        self._kept = VectorMemory(max_bytes, seconds)
        self._loads: dict[VectorKey, tuple[_Load, asyncio.Task[None]]] = {}
        self._tasks = BackgroundTasks()

    async def get(self, caller: str, keys: Sequence[VectorKey], texts: Sequence[str], fetch: Fetch) -> list[Vector]:
        """Return the vector of each text; `fetch` gets the texts that are neither at hand nor on their way.

        Raises:
            CoxswainError: `fetch` raised it, here or for a call of the same caller that has all texts at fault too.
        """
        text_of = dict(zip(keys, texts, strict=True))
        found: dict[VectorKey, Vector] = {}
        while True:
            self._find(text_of, found)
            missing = [key for key in text_of if key not in found]
            if not missing:
                return [found[key] for key in keys]
            new = {key: text_of[key] for key in missing if key not in self._loads}
            own = self._begin(caller, new, fetch) if new else None
            loads = dict(self._loads[key] for key in missing)
            await self._wait(loads, found, caller, own, keys)

    def forget(self, keys: Sequence[VectorKey]) -> None:
        """Fetch these anew the next time."""
        self._kept.forget(keys)

    async def close(self) -> None:
        """End what is under way."""
        await self._tasks.stop()

    def _find(self, keys: Mapping[VectorKey, str], found: dict[VectorKey, Vector]) -> None:
        for key in keys:
            if key not in found and (vector := self._kept.get(key)) is not None:
                found[key] = vector

    def _begin(self, caller: str, texts: Mapping[VectorKey, str], fetch: Fetch) -> _Load:
        load = _Load(caller, tuple(texts))
        task = self._tasks.start(self._run(load, list(texts.values()), fetch))
        for key in load.keys:
            self._loads[key] = load, task
        return load

    async def _run(self, load: _Load, texts: Sequence[str], fetch: Fetch) -> None:
        def take(positions: Sequence[int], embeddings: Embeddings) -> None:
            # A row alone would keep the whole batch in memory.
            rows = zip(positions, embeddings.vectors, strict=True)
            vectors = {load.keys[position]: row.copy() for position, row in rows}
            load.vectors |= vectors
            self._kept.put(vectors.items())

        try:
            await fetch(texts, take)
            if len(load.vectors) != len(load.keys):
                raise RuntimeError("a provider has left texts out")
        except BaseException as failure:
            load.failure = failure
            if isinstance(failure, asyncio.CancelledError):
                raise
        finally:
            self._detach(load)

    def _detach(self, load: _Load) -> None:
        """Let nobody join a load any more."""
        for key in load.keys:
            held = self._loads.get(key)
            if held is not None and held[0] is load:
                del self._loads[key]

    async def _wait(
        self,
        loads: Mapping[_Load, asyncio.Task[None]],
        found: dict[VectorKey, Vector],
        caller: str,
        own: _Load | None,
        keys: Sequence[VectorKey],
    ) -> None:
        """Wait for loads and take their vectors; without those of a load whose failure is no matter of this call's."""
        pending = dict(loads)
        for load in pending:
            load.waiters += 1
        try:
            while pending:
                await asyncio.wait(pending.values(), return_when=asyncio.FIRST_COMPLETED)
                for load in [load for load, task in pending.items() if task.done()]:
                    del pending[load]
                    load.waiters -= 1
                    found |= load.vectors
                    shared = load.caller == caller and _is_shared(load, keys)
                    if load.failure is not None and (load is own or shared):
                        raise _for_caller(load, load.failure, keys)
        finally:
            for load, task in pending.items():
                load.waiters -= 1
                if not load.waiters:
                    self._detach(load)
                    task.cancel()


def _is_shared(load: _Load, keys: Sequence[VectorKey]) -> bool:
    """Whether the failure of a load that another call began is that of a call for `keys` too."""
    failure = load.failure
    if not isinstance(failure, CoxswainError) or isinstance(failure, DeadlineExceeded):
        return False
    if not isinstance(failure, InvalidArgument):
        return True
    # A text at fault may be one that only the other call has.
    named = [load.keys[position] for position in map(_position, failure.violations) if position is not None]
    return set(named or load.keys) <= set(keys)


def _for_caller(load: _Load, failure: BaseException, keys: Sequence[VectorKey]) -> BaseException:
    """Return a load's failure with the positions that the texts at fault have in a call."""
    if isinstance(failure, InvalidArgument) and any(_position(found) is not None for found in failure.violations):
        violations = []
        for found in failure.violations:
            position = _position(found)
            path = found.field if position is None else f"texts[{keys.index(load.keys[position])}]"
            violations.append(FieldViolation(path, found.description))
        return InvalidArgument.fields(violations, reason=failure.reason)
    # One exception raised for many callers would collect the traceback of each.
    return copy.copy(failure) if isinstance(failure, CoxswainError) else failure


def _position(violation: FieldViolation) -> int | None:
    found = _TEXT_FIELD.fullmatch(violation.field)
    return int(found[1]) if found else None
