"""Embedding many texts in requests of a size that upstreams take."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from services.models.domain.answer import Embeddings
from services.models.domain.model import Model
from services.models.domain.usage import Usage
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

    async def fetch_one(batch: Sequence[str]) -> Embeddings:
        async with slots:
            return await fetch(batch)

    batches = [texts[start : start + limits.texts] for start in range(0, len(texts), limits.texts)]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(fetch_one(batch)) for batch in batches]
    except ExceptionGroup as failures:
        # One request's failure is the call's.
        raise failures.exceptions[0] from None
    parts = [task.result() for task in tasks]
    if len({part.vectors.shape[1] for part in parts}) != 1:
        raise bad_response(model, "its embeddings differ in length")
    counted = [part.usage for part in parts if part.usage is not None]
    usage = Usage(input_tokens=sum(usage.input_tokens for usage in counted)) if len(counted) == len(parts) else None
    return Embeddings(np.concatenate([part.vectors for part in parts]), usage)
