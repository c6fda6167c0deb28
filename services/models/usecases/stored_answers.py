"""Answers that are given again: to a repeated request_id, and to equal requests whose callers ask for it."""

import asyncio
import copy
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import TracebackType
from typing import Protocol, Self

import structlog
from pydantic import TypeAdapter, ValidationError

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.expiry import remove_before
from services.common.errors import AlreadyExists, CoxswainError, DeadlineExceeded
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.common.periodic import every
from services.models.domain.answer import Answer, AnswerParts, Delta, FinishDelta, FinishReason, parts_of
from services.models.domain.conversation import Completion
from services.models.keys import AnswerKey
from services.models.repositories.stored_answers import AnswerRow, StoredAnswerRepository, read_answer
from services.models.tables import stored_answers
from services.models.usecases.catalogue import Catalogue

logger = structlog.get_logger(__name__)

_ANSWER = TypeAdapter(Answer)
# How long a claim outlives its process, and the pauses of those who wait for one.
_CLAIM = timedelta(seconds=15)
_RENEWAL_SECONDS = 5.0
_POLL_SECONDS = 0.2
# Parts of a group's bound that may be added before its oldest answers are removed.
_TRIM_PARTS = 16
# Others may come out better the next time.
_CACHED = frozenset({FinishReason.STOP, FinishReason.TOOL_CALLS})


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """What is stored, and for how long."""

    seconds: float
    """For a repeated request_id."""
    cached_seconds: float
    """For equal requests."""
    answers: int
    """Of one group."""
    size: int
    """Bytes of one group's answers together."""


@dataclass(slots=True)
class Reuse:
    """Which earlier answer may serve a request."""

    digest: str
    """Hash of the whole completion."""
    request_id: str = ""
    """Empty: the request is none that may be repeated."""
    max_cached_age: timedelta | None = None
    """Age of an answer to an equal request; None: no such answer is wanted, and none is stored."""


class Answering(Protocol):
    """Asks models; see `Inference`."""

    async def complete(self, principal: Principal, completion: Completion) -> Answer:
        """Return the whole answer."""
        ...

    async def stream(self, principal: Principal, completion: Completion) -> AsyncGenerator[Delta, None]:
        """Return the answer in parts."""
        ...


@dataclass(slots=True)
class _Run:
    """A call under way in this process."""

    body_hash: str
    ended: asyncio.Future[Answer | CoxswainError | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    """Its answer, its failure, or None when it says nothing about another attempt."""


class StoredAnswers:
    """Gives stored answers, and asks a model where there is none.

    Answers are sealed in the database and bounded for each group. A request_id is answered once for its group and
    subject: who repeats it while the first call runs waits for that one, whichever replica runs it.
    """

    def __init__(
        self, database: Database, catalogue: Catalogue, asking: Answering, key: AnswerKey, limits: AnswerLimits
    ) -> None:
        self._database = database
        self._catalogue = catalogue
        self._asking = asking
        self._key = key
        self._limits = limits
        # On SQLite no other process answers calls.
        self._claims = database.dialect != "sqlite"
        self._process = new_id()
        self._running: dict[tuple[str, str], _Run] = {}
        self._added_answers: Counter[str] = Counter()
        self._added_bytes: Counter[str] = Counter()

    async def complete(self, principal: Principal, completion: Completion, reuse: Reuse) -> Answer:
        """Return a stored answer, or the model's.

        Raises:
            AlreadyExists: the request_id came with another completion.
            CoxswainError: see `Inference.complete`.
        """
        if not reuse.request_id:
            return await self._complete(principal, completion, reuse)
        turn = await self._turn(principal, reuse)
        async with turn:
            if turn.answer is not None:
                return turn.answer
            answer = await self._complete(principal, completion, reuse)
            await turn.keep(answer)
            return answer

    async def stream(self, principal: Principal, completion: Completion, reuse: Reuse) -> AsyncGenerator[Delta, None]:
        """Return a stored answer in a few parts, or the model's as it comes.

        Raises:
            AlreadyExists: the request_id came with another completion.
            CoxswainError: see `Inference.stream`.
        """
        if reuse.request_id:
            return self._stream_once(principal, completion, reuse)
        return await self._stream(principal, completion, reuse)

    async def _stream_once(
        self, principal: Principal, completion: Completion, reuse: Reuse
    ) -> AsyncGenerator[Delta, None]:
        turn = await self._turn(principal, reuse)
        async with turn:
            if turn.answer is not None:
                for delta in parts_of(turn.answer):
                    yield delta
                return
            parts = AnswerParts()
            async with aclosing(await self._stream(principal, completion, reuse)) as deltas:
                async for delta in deltas:
                    parts.add(delta)
                    if isinstance(delta, FinishDelta) and not delta.schema_violations:
                        # Before the end is sent: who repeats a call that lost it finds the answer.
                        await turn.keep(parts.answer())
                    yield delta

    async def clean(self, pause_seconds: float) -> None:
        """Remove expired rows, every `pause_seconds` until cancelled."""
        await every(
            pause_seconds,
            lambda: remove_before(self._database, stored_answers.c.expires_at, utc_now()),
            name="stored_answers",
        )

    async def renew(self) -> None:
        """Let claims of calls under way last, until cancelled."""
        await every(_RENEWAL_SECONDS, self._renew, name="answer_claims")

    async def _renew(self) -> None:
        claims = list(self._running)
        if self._claims and claims:
            async with self._database.write() as connection:
                await StoredAnswerRepository(connection).renew(self._process, claims, utc_now() + _CLAIM)

    # Equal requests

    async def _complete(self, principal: Principal, completion: Completion, reuse: Reuse) -> Answer:
        if reuse.max_cached_age is None:
            return await self._asking.complete(principal, completion)
        key = await self._cache_key(principal, completion, reuse)
        if cached := await self._cached(principal.group_id, key, reuse):
            return cached
        answer = await self._asking.complete(principal, completion)
        await self._cache(principal.group_id, key, answer)
        return answer

    async def _stream(self, principal: Principal, completion: Completion, reuse: Reuse) -> AsyncGenerator[Delta, None]:
        # Most streams pass through nothing of this module: every step costs them for each delta.
        if reuse.max_cached_age is None:
            return await self._asking.stream(principal, completion)
        return self._stream_cached(principal, completion, reuse)

    async def _stream_cached(
        self, principal: Principal, completion: Completion, reuse: Reuse
    ) -> AsyncGenerator[Delta, None]:
        key = await self._cache_key(principal, completion, reuse)
        if cached := await self._cached(principal.group_id, key, reuse):
            for delta in parts_of(cached):
                yield delta
            return
        parts = AnswerParts()
        async with aclosing(await self._asking.stream(principal, completion)) as deltas:
            async for delta in deltas:
                parts.add(delta)
                if isinstance(delta, FinishDelta) and not delta.schema_violations:
                    await self._cache(principal.group_id, key, parts.answer())
                yield delta

    async def _cache_key(self, principal: Principal, completion: Completion, reuse: Reuse) -> str:
        """Return what equal requests share."""
        model = await self._catalogue.find_enabled(principal.group_id, completion.model)
        revision = f"{model.revision} {model.updated_at.isoformat()}"
        return self._key.hash("equal request", principal.group_id, model.id, revision, reuse.digest)

    async def _cached(self, group_id: str, key: str, reuse: Reuse) -> Answer | None:
        row = await read_answer(self._database, group_id, key)
        now = utc_now()
        if row is None or reuse.max_cached_age is None:
            return None
        return self._open(row) if now <= min(row.created_at + reuse.max_cached_age, row.expires_at) else None

    async def _cache(self, group_id: str, key: str, answer: Answer) -> None:
        # A fallback answers only while the model that was asked cannot.
        if answer.finish_reason in _CACHED and not answer.answered_by:
            await self._store(group_id, key, "", answer, self._limits.cached_seconds)

    # Repeated requests

    async def _turn(self, principal: Principal, reuse: Reuse) -> "_Turn":
        """Return the first call's answer, once it is there, or the right to make the first call."""
        group_id = principal.group_id
        key = self._key.hash("request_id", group_id, principal.subject, reuse.request_id)
        body_hash = self._key.hash("body", reuse.digest)
        while (run := self._running.get((group_id, key))) is not None:
            if run.body_hash != body_hash:
                raise AlreadyExists.request_id(reuse.request_id)
            # Each waits by itself: one that is cancelled must not end what the others wait for.
            ended = await asyncio.shield(run.ended)
            if isinstance(ended, CoxswainError):
                # One exception raised for many callers would collect the traceback of each.
                raise copy.copy(ended)
            if ended is not None:
                return _Turn(self, group_id, key, body_hash, None, replace(ended, stored=True))
        run = self._running[group_id, key] = _Run(body_hash)
        turn = _Turn(self, group_id, key, body_hash, run)
        try:
            turn.answer = await self._claim(group_id, key, body_hash, reuse.request_id)
        except BaseException as error:
            await turn.__aexit__(type(error), error, None)
            raise
        return turn

    async def _claim(self, group_id: str, key: str, body_hash: str, request_id: str) -> Answer | None:
        """Return the stored answer; None when it is for this process to ask for one."""
        while True:
            row = await read_answer(self._database, group_id, key)
            now = utc_now()
            if row is not None and row.expires_at >= now:
                if row.body_hash != body_hash:
                    raise AlreadyExists.request_id(request_id)
                # A claim of this process is one that could not be released: no other call of it is at it.
                if row.claimed_by not in ("", self._process):
                    # Another replica is at it. Its claim lapses soon after its death.
                    await asyncio.sleep(_POLL_SECONDS)
                    continue
                if (answer := self._open(row)) is not None:
                    return answer
            if not self._claims:
                return None
            claim = AnswerRow(group_id, key, body_hash, None, self._process, now, now + _CLAIM)
            async with self._database.write() as connection:
                rows = StoredAnswerRepository(connection)
                if row is not None:
                    await rows.remove(row)
                if await rows.add(claim):
                    return None

    async def keep(self, group_id: str, key: str, body_hash: str, answer: Answer) -> bool:
        """Store the answer of a first call instead of its claim, and return whether that was done."""
        return await self._store(group_id, key, body_hash, answer, self._limits.seconds)

    def end(self, group_id: str, key: str) -> None:
        """Let the next call of the same request_id go on."""
        del self._running[group_id, key]

    async def release(self, group_id: str, key: str) -> None:
        """Give up the claim of a call that has stored nothing, before the next one of this process can have its own."""
        if not self._claims:
            return
        try:
            async with self._database.write() as connection:
                await StoredAnswerRepository(connection).release(group_id, key, self._process)
        except CoxswainError as error:
            # It lapses by itself.
            logger.warning("answer_claim_not_released", reason=error.reason)

    # Rows

    def _open(self, row: AnswerRow) -> Answer | None:
        """Return the answer in a row; None when it is of another key or release."""
        plaintext = None if row.sealed is None else self._key.open(row.key, row.sealed)
        if plaintext is None:
            return None
        try:
            return replace(_ANSWER.validate_json(plaintext), stored=True)
        except ValidationError:
            return None

    async def _store(self, group_id: str, key: str, body_hash: str, answer: Answer, seconds: float) -> bool:
        """Store an answer, and return whether that was done; a failure is logged, as the answer itself is good."""
        sealed = self._key.seal(key, _ANSWER.dump_json(answer))
        if len(sealed) > self._limits.size:
            return False
        now = utc_now()
        row = AnswerRow(group_id, key, body_hash, sealed, "", now, now + timedelta(seconds=seconds))
        self._added_answers[group_id] += 1
        self._added_bytes[group_id] += len(sealed)
        is_due = (
            self._added_answers[group_id] * _TRIM_PARTS >= self._limits.answers
            or self._added_bytes[group_id] * _TRIM_PARTS >= self._limits.size
        )
        try:
            async with self._database.write() as connection:
                rows = StoredAnswerRepository(connection)
                await rows.replace(row, claimed_by=self._process)
                if is_due:
                    await rows.trim(group_id, answers=self._limits.answers, size=self._limits.size)
        except Exception:
            logger.exception("answer_not_stored")
            return False
        if is_due:
            del self._added_answers[group_id], self._added_bytes[group_id]
        return True


class _Turn:
    """The right to make the first call of a request_id, or the answer that it had."""

    def __init__(
        self,
        owner: StoredAnswers,
        group_id: str,
        key: str,
        body_hash: str,
        run: _Run | None,
        answer: Answer | None = None,
    ) -> None:
        self._owner = owner
        self._group_id = group_id
        self._key = key
        self._body_hash = body_hash
        self._run = run
        self.answer = answer
        """That of the first call; None when this is the first one."""
        self._own: Answer | None = None
        self._stored = answer is not None

    async def keep(self, answer: Answer) -> None:
        """Store the answer of this call for those that repeat it."""
        self._own = answer
        self._stored = await self._owner.keep(self._group_id, self._key, self._body_hash, answer)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._run is None:
            return
        # A call that was cancelled or ran out of time says nothing about one that has more.
        shared = error if isinstance(error, CoxswainError) and not isinstance(error, DeadlineExceeded) else None
        answer = self.answer or self._own
        run, self._run = self._run, None
        try:
            if not self._stored and self.answer is None:
                await self._owner.release(self._group_id, self._key)
        finally:
            self._owner.end(self._group_id, self._key)
            run.ended.set_result(answer if answer is not None else shared)
