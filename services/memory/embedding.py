"""Texts to vectors, by the models service."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc

from coxswain.models.v1 import inference_pb2, inference_service_pb2_grpc
from services.common.group_lines import wait_without_turn
from services.common.grpc.status import from_rpc_error
from services.memory.domain.vectors import EmbeddingSpace, Vector, unit_vector

_TEXTS_IN_CALL = 100
"""Vectors of the greatest length, 8192, have 32 KiB each: more of them would not fit a message."""
_CHARACTERS_IN_CALL = 500_000
"""At most four bytes each: half of the smallest limit of messages."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors in the order of their texts, and their embedding space."""

    space: EmbeddingSpace
    vectors: Sequence[Vector]


class Embedder(Protocol):
    """Embeds on behalf of the caller of the present call."""

    async def embed(self, model: str, texts: Sequence[str], crew_name: str = "") -> Embedded:
        """Embed at least one text; an empty model means the installation's default.

        What it uses is labelled with the crew's name, unless that is empty.
        """
        ...

    async def space(self, model: str) -> EmbeddingSpace:
        """Return the space of a model."""
        ...


class ModelsEmbedder:
    """Asks `coxswain.models.v1.InferenceService`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = inference_service_pb2_grpc.InferenceServiceStub(channel)

    async def embed(self, model: str, texts: Sequence[str], crew_name: str = "") -> Embedded:
        """See `Embedder`."""
        labels = {"crew": crew_name} if crew_name else {}
        vectors: list[Vector] = []
        space = EmbeddingSpace(model, 0)
        for part in _batches(texts):
            request = inference_pb2.EmbedRequest(model=model, texts=part, labels=labels)
            wait_without_turn()
            try:
                response = await self._stub.Embed(request)
            except grpc.RpcError as error:
                raise from_rpc_error(error, "models") from error
            space = EmbeddingSpace(response.model, response.dimension)
            vectors.extend(unit_vector(embedding.values) for embedding in response.embeddings)
        return Embedded(space, vectors)

    async def space(self, model: str) -> EmbeddingSpace:
        """See `Embedder`."""
        return (await self.embed(model, ["dimension"])).space


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        if batch and (len(batch) == _TEXTS_IN_CALL or characters + len(text) > _CHARACTERS_IN_CALL):
            yield batch
            batch, characters = [], 0
        batch.append(text)
        characters += len(text)
    if batch:
        yield batch
