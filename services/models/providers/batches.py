"""Embedding many texts in requests of a size that upstreams take."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from services.models.domain.answer import Embeddings
from services.models.domain.model import Model
from services.models.domain.tokens import estimate_tokens
from services.models.domain.usage import Usage
from services.models.providers.lost_work import expect_prompt, report_lost_work
from services.models.providers.upstream_errors import bad_response


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How many texts are sent upstream at once."""

    texts: int
    """In one request."""
    requests: int
    """Of one call at the same time."""


async def embed_in_batches(
    model: Model,
    texts: Sequence[str],
    fetch: Callable[[Sequence[str]], Awaitable[Embeddings]],
    limits: BatchLimits,
) -> Embeddings:
    """Return the vectors of all texts in their order.

    Raises:
        CoxswainError: the first failure of a request, or the vectors differ in length.
    """
    slots = asyncio.Semaphore(limits.requests)
    done: list[Usage] = []

    async def fetch_one(batch: Sequence[str]) -> Embeddings:
        expect_prompt(lambda: _estimate(batch).input_tokens)
        async with slots:
            part = await fetch(batch)
        done.append(part.usage or _estimate(batch))
        return part

    batches = [texts[start : start + limits.texts] for start in range(0, len(texts), limits.texts)]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(fetch_one(batch)) for batch in batches]
    except BaseException as failure:
        if done:
            report_lost_work(model, _sum(done))
        if isinstance(failure, ExceptionGroup):
            # One request's failure is the call's.
            raise failure.exceptions[0] from None
        raise
    parts = [task.result() for task in tasks]
    if len({part.vectors.shape[1] for part in parts}) != 1:
        report_lost_work(model, _sum(done))
        raise bad_response(model, "its embeddings differ in length")
    return Embeddings(np.concatenate([part.vectors for part in parts]), _sum(done))


def _estimate(texts: Sequence[str]) -> Usage:
    return Usage(input_tokens=sum(map(estimate_tokens, texts)), estimated=True)


def _sum(parts: Sequence[Usage]) -> Usage:
    return Usage(input_tokens=sum(part.input_tokens for part in parts), estimated=any(part.estimated for part in parts))
