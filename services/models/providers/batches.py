"""Embedding many texts in requests of a size that upstreams take."""

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from services.common.errors import CoxswainError
from services.models.domain.answer import Embeddings
from services.models.domain.model import Model
from services.models.domain.tokens import estimate_tokens
from services.models.providers.base import TakeBatch
from services.models.providers.learned_from_refusals import Learned
from services.models.providers.lost_work import expect_prompt
from services.models.providers.upstream_errors import quoted_words

_TEXTS = r"(?:inputs?|texts?|items|documents|sentences|elements|entries|embeddings|requests)"
_TOO_MANY = re.compile(
    rf"""
      too\ many\ {_TEXTS} | (?:number|amount|count)\ of\ {_TEXTS} | \bbatch(?:es)?\b
    | \b(?:list|array|input)\ (?:is\ |has\ )?too\ (?:long|large|many)
    | (?:at\ most|maximum(?:\ (?:length|size|number))?|up\ to|no\ more\ than|exceed\w*)
      \ (?:\w+\ ){{0,3}}[\d,]+\ {_TEXTS}
    | (?:input|embeddings?)\ (?:size|count|length|list)\b[^.\n]{{0,40}}\b(?:too\ large|exceed)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_TOO_MANY_TOKENS = re.compile(
    r"too many (?:\w+ )?tokens|\btokens?\b[^.\n]{0,60}\b(?:exceeds?|max|maximum|limit)\b"
    r"|\b(?:exceed\w*|max|maximum|limit)\b[^.\n]{0,60}\btokens?\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<![\w.])\d{1,3}(?:,\d{3})+(?!\w)|(?<![\w.])\d{1,6}(?![\w]|\.\d)")
_TOO_LARGE_STATUS = "413"
_REFUSED_STATUSES = frozenset({"400", _TOO_LARGE_STATUS, "422"})


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much is sent upstream at once."""

    texts: int
    """In one request, for a model that is configured with no number of its own."""
    tokens: int
    """In one request, by estimate; a longer text goes alone."""
    requests: int
    """Of one call at the same time."""


@dataclass(frozen=True, slots=True)
class _Fit:
    """What one request may hold."""

    texts: int
    tokens: int


class Batches:
    """Cuts calls into requests, and smaller ones where an upstream refuses their size."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._learned = Learned[_Fit]()

    async def embed(
        self,
        model: Model,
        texts: Sequence[str],
        fetch: Callable[[Sequence[str]], Awaitable[Embeddings]],
        take: TakeBatch,
    ) -> None:
        """Fetch the vectors of all texts, and hand each batch to `take` as it comes.

        Raises:
            CoxswainError: the first failure of a request, or of `take`; others are cancelled.
        """
        fit = known = self._fit(model)
        tokens = [estimate_tokens(text) for text in texts]
        todo = deque([range(len(texts))])

        async def work() -> None:
            nonlocal fit
            while todo:
                span = todo.popleft()
                size = _fitting(span, tokens, fit)
                batch = span[:size]
                if len(span) > size:
                    todo.appendleft(span[size:])
                batch_tokens = sum(tokens[position] for position in batch)
                expect_prompt(partial(int, batch_tokens))
                try:
                    embeddings = await fetch([texts[position] for position in batch])
                except CoxswainError as failure:
                    smaller = _smaller(failure, fit, len(batch), batch_tokens)
                    if smaller is None:
                        raise
                    fit = smaller
                    todo.appendleft(batch)
                else:
                    take(batch, embeddings)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._limits.requests):
                    group.create_task(work())
        except ExceptionGroup as failures:
            # One request's failure is the call's.
            raise failures.exceptions[0] from None
        # Only what led to success counts: one text that is too long by itself is refused at every size.
        if fit != known:
            self._learned.put(model, fit)

    def _fit(self, model: Model) -> _Fit:
        configured = _Fit(model.spec.max_texts_per_request or self._limits.texts, self._limits.tokens)
        learned = self._learned.get(model)
        if learned is None:
            return configured
        return _Fit(min(configured.texts, learned.texts), min(configured.tokens, learned.tokens))


def _fitting(span: range, tokens: Sequence[int], fit: _Fit) -> int:
    """Return how many texts from the start of a span fit into one request; at least one."""
    total = 0
    for count, position in enumerate(span[: fit.texts]):
        total += tokens[position]
        if total > fit.tokens and count:
            return count
    return min(len(span), fit.texts)


def _smaller(failure: CoxswainError, fit: _Fit, texts: int, tokens: int) -> _Fit | None:
    """Return what a request may hold after one of so many texts and tokens was refused; None when size is no reason."""
    if texts == 1:
        return None
    if failure.reason == "CONTEXT_WINDOW_EXCEEDED":
        return replace(fit, tokens=min(fit.tokens, tokens // 2))
    status = failure.metadata.get("http_status")
    if failure.reason != "UPSTREAM_REJECTED" or status not in _REFUSED_STATUSES:
        return None
    words = quoted_words(failure)
    if _TOO_MANY_TOKENS.search(words):
        return replace(fit, tokens=min(fit.tokens, tokens // 2))
    if _TOO_MANY.search(words):
        numbers = (int(number.replace(",", "")) for number in _NUMBER.findall(words))
        # The limit itself, where it is named: the largest number below what was refused.
        named = max((number for number in numbers if 0 < number < texts), default=texts // 2)
        return replace(fit, texts=min(fit.texts, named))
    return replace(fit, texts=min(fit.texts, texts // 2)) if status == _TOO_LARGE_STATUS else None
