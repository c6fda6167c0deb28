"""`coxswain.models.v1.InferenceService`."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1.inference_service_pb2_grpc import InferenceServiceServicer
from services.common.grpc.call import current_principal
from services.models.servicers.messages import (
    answer_message,
    completion_of,
    delta_message,
    embedding_messages,
    messages_of,
    usage_message,
)
from services.models.usecases.inference import Inference


class InferenceServicer(InferenceServiceServicer):
    """Calls of models over gRPC."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def Complete(self, request: pb.CompleteRequest, context: Any) -> pb.CompleteResponse:
        """Answer a conversation."""
        return answer_message(await self._inference.complete(current_principal(), completion_of(request.completion)))

    async def StreamComplete(
        self, request: pb.StreamCompleteRequest, context: Any
    ) -> AsyncIterator[pb.StreamCompleteResponse]:
        """Answer a conversation piece by piece."""
        stream = self._inference.stream(current_principal(), completion_of(request.completion))
        async with aclosing(stream) as deltas:
            async for delta in deltas:
                yield delta_message(delta)

    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        """Embed texts."""
        model, embeddings = await self._inference.embed(current_principal(), request.model, list(request.texts))
        return pb.EmbedResponse(
            embeddings=embedding_messages(embeddings.vectors),
            model=model.name,
            dimension=embeddings.vectors.shape[1],
            usage=usage_message(embeddings.usage),
        )

    async def CountTokens(self, request: pb.CountTokensRequest, context: Any) -> pb.CountTokensResponse:
        """Measure a conversation."""
        count = await self._inference.count_tokens(current_principal(), request.model, messages_of(request.messages))
        return pb.CountTokensResponse(tokens=count.tokens, exact=count.exact)
