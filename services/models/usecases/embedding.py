"""Turning texts into vectors."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.identity.principal import Principal
from services.models.domain.answer import Embeddings
from services.models.domain.model import Model, Provider
from services.models.domain.tokens import estimate_tokens
from services.models.domain.usage import Usage, completed
from services.models.providers.base import ModelProvider, TakeBatch
from services.models.providers.upstream_errors import bad_response
from services.models.usecases.capabilities import lacking_capability
from services.models.usecases.catalogue import Catalogue
from services.models.usecases.metering import Metering
from services.models.usecases.shared_vectors import SharedVectors
from services.models.usecases.vector_memory import VectorKey

_FLOAT_BYTES = 4
# Room for the rest of an embeddings message.
_MESSAGE_MARGIN_BYTES = 64 * 1024


class Embedding:
    """Calls embedding models on behalf of groups, for vectors that are not at hand."""

    def __init__(
        self,
        catalogue: Catalogue,
        providers: Mapping[Provider, ModelProvider],
        metering: Metering,
        vectors: SharedVectors,
        *,
        default_model: str,
        max_message_bytes: int,
    ) -> None:
        """`default_model` is for calls that name none; `max_message_bytes` is the largest response that can be sent."""
        self._catalogue = catalogue
        self._providers = providers
        self._metering = metering
        self._vectors = vectors
        self._default_model = default_model
        self._max_message_bytes = max_message_bytes

    async def embed(
        self, principal: Principal, name: str, texts: Sequence[str], dimensions: int, *, labels: Mapping[str, str]
    ) -> tuple[Model, Embeddings]:
        """Return the model used, a unit-length vector for each text, and what was used to make them now.

        `dimensions` is the length of the vectors; 0 means the model's own.

        Raises:
            CoxswainError: the model is unknown, disabled, unable, over budget, or its upstream failed; there are more
                texts than one response can carry.
        """
        model = await self._catalogue.find_enabled(principal.group_id, name or self._default_model)
        if not model.spec.capabilities.embeddings:
            raise lacking_capability(model, "embeddings", "embed texts")
        # Refused before the upstream is paid for vectors that cannot be sent.
        self._check_size(dimensions or model.spec.embedding_dimension, len(texts))
        call = _Call(self._providers[model.spec.provider], self._metering, principal, model, dimensions, labels)
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        keys = [VectorKey(principal.group_id, model.id, model.updated_at, dimensions, digest) for digest in digests]
        caller = f"{principal.subject} {principal.execution_id}"
        vectors = await self._vectors.get(caller, keys, texts, call.fetch)
        if len({vector.size for vector in vectors}) != 1:
            # The upstream has changed its model: what is remembered is of the old one.
            self._vectors.forget(keys)
            vectors = await self._vectors.get(caller, keys, texts, call.fetch)
        if len({vector.size for vector in vectors}) != 1:
            raise bad_response(model, "its embeddings differ in length")
        self._check_size(vectors[0].size, len(texts))
        return model, Embeddings(np.stack(vectors), call.usage)

    def _check_size(self, dimension: int, texts: int) -> None:
        if dimension * texts * _FLOAT_BYTES > self._max_message_bytes - _MESSAGE_MARGIN_BYTES:
            most = (self._max_message_bytes - _MESSAGE_MARGIN_BYTES) // (dimension * _FLOAT_BYTES)
            raise InvalidArgument.field(
                "texts",
                f"must be at most {most} texts, as one response holds so many vectors of {dimension} components",
            )


class _Call:
    """What one call sends upstream."""

    def __init__(
        self,
        provider: ModelProvider,
        metering: Metering,
        principal: Principal,
        model: Model,
        dimensions: int,
        labels: Mapping[str, str],
    ) -> None:
        self._provider = provider
        self._metering = metering
        self._principal = principal
        self._model = model
        self._dimensions = dimensions
        self._labels = labels
        self.usage = Usage()
        """What the call has used so far."""

    async def fetch(self, texts: Sequence[str], take: TakeBatch) -> None:
        """Have texts embedded, and record what that used, of a part of them too.

        Raises:
            CoxswainError: the group is over budget, or the upstream failed or returned unfit vectors.
        """
        used: list[Usage] = []

        def checked(positions: Sequence[int], embeddings: Embeddings) -> None:
            used.append(completed(embeddings.usage, lambda: _estimate([texts[position] for position in positions])))
            self._check_dimension(embeddings.vectors.shape[1])
            take(positions, embeddings)

        metered = self._metering.call(
            self._principal, self._model, lambda: _estimate(texts), self._labels, operation="embeddings"
        )
        async with metered as meter:
            try:
                await self._provider.embed(self._model, texts, self._dimensions, checked)
            finally:
                if used:
                    self.usage = _sum([self.usage, meter.used(self._model, _sum(used))])

    def _check_dimension(self, dimension: int) -> None:
        expected = self._dimensions or self._model.spec.embedding_dimension
        if expected in (0, dimension):
            return
        what, remedy = (
            ("was asked for", "leave dimensions out, or choose a model that can shorten its vectors")
            if self._dimensions
            else ("is configured with", "correct the model's embedding_dimension, as stored vectors would not match")
        )
        raise FailedPrecondition(
            f'"{self._model.name}" {what} vectors of {expected} components, but its upstream returns vectors of '
            f"{dimension}; {remedy}",
            reason="EMBEDDING_MISMATCH",
            metadata={
                "expected_model": self._model.name,
                "expected_dimension": str(expected),
                "actual_dimension": str(dimension),
            },
        )


def _estimate(texts: Sequence[str]) -> Usage:
    return Usage(input_tokens=sum(map(estimate_tokens, texts)), estimated=True)


def _sum(parts: Sequence[Usage]) -> Usage:
    return Usage(
        input_tokens=sum(part.input_tokens for part in parts),
        cost=sum(part.cost for part in parts),
        estimated=any(part.estimated for part in parts),
    )
