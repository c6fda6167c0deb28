"""Turning texts into vectors."""

from collections.abc import Mapping, Sequence

from services.common.errors import FailedPrecondition, InvalidArgument
from services.common.identity.principal import Principal
from services.models.domain.answer import Embeddings
from services.models.domain.model import Model, Provider
from services.models.domain.tokens import estimate_tokens
from services.models.domain.usage import Usage
from services.models.providers.base import ModelProvider
from services.models.usecases.capabilities import lacking_capability
from services.models.usecases.catalogue import Catalogue
from services.models.usecases.metering import Metering

_FLOAT_BYTES = 4
# Room for the rest of an embeddings message.
_MESSAGE_MARGIN_BYTES = 64 * 1024


class Embedding:
    """Calls embedding models on behalf of groups. Nothing is kept between calls."""

    def __init__(
        self,
        catalogue: Catalogue,
        providers: Mapping[Provider, ModelProvider],
        metering: Metering,
        *,
        default_model: str,
        max_message_bytes: int,
    ) -> None:
        """`default_model` is for calls that name none; `max_message_bytes` is the largest response that can be sent."""
        self._catalogue = catalogue
        self._providers = providers
        self._metering = metering
        self._default_model = default_model
        self._max_message_bytes = max_message_bytes

    async def embed(self, principal: Principal, name: str, texts: Sequence[str]) -> tuple[Model, Embeddings]:
        """Return the model used, and a unit-length vector for each text.

        Raises:
            CoxswainError: the model is unknown, disabled, unable, over budget, or its upstream failed; there are more
                texts than one response can carry.
        """
        model = await self._catalogue.find_enabled(principal.group_id, name or self._default_model)
        if not model.spec.capabilities.embeddings:
            raise lacking_capability(model, "embeddings", "embed texts")
        # Refused before the upstream is paid for vectors that cannot be sent.
        self._check_size(model.spec.embedding_dimension, len(texts))
        async with self._metering.call(principal, model, lambda: _estimate(texts)) as meter:
            embeddings = await self._providers[model.spec.provider].embed(model, texts)
            usage = meter.used(model, embeddings.usage or _estimate(texts))
        dimension = embeddings.vectors.shape[1]
        if model.spec.embedding_dimension not in (0, dimension):
            raise FailedPrecondition(
                f'"{model.name}" is configured with embedding_dimension {model.spec.embedding_dimension}, but its '
                f"upstream returns vectors of {dimension}; correct the model, as stored vectors would not match",
                reason="EMBEDDING_MISMATCH",
                metadata={
                    "expected_model": model.name,
                    "expected_dimension": str(model.spec.embedding_dimension),
                    "actual_dimension": str(dimension),
                },
            )
        self._check_size(dimension, len(texts))
        return model, Embeddings(embeddings.vectors, usage)

    def _check_size(self, dimension: int, texts: int) -> None:
        if dimension * texts * _FLOAT_BYTES > self._max_message_bytes - _MESSAGE_MARGIN_BYTES:
            most = (self._max_message_bytes - _MESSAGE_MARGIN_BYTES) // (dimension * _FLOAT_BYTES)
            raise InvalidArgument.field(
                "texts",
                f"must be at most {most} texts, as one response holds so many vectors of {dimension} components",
            )


def _estimate(texts: Sequence[str]) -> Usage:
    return Usage(input_tokens=sum(map(estimate_tokens, texts)), estimated=True)
