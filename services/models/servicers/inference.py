"""`coxswain.models.v1.InferenceService`."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1.inference_service_pb2_grpc import InferenceServiceServicer
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.common.grpc.large_messages import beside_if_large
from services.models.domain.answer import short_parts
from services.models.domain.conversation import Completion
from services.models.servicers.messages.inference import (
    answer_to_proto,
    completion_from_proto,
    delta_to_proto,
    embeddings_to_proto,
    messages_from_proto,
    reuse_from_proto,
)
from services.models.usecases.embedding import Embedding
from services.models.usecases.inference import Inference
from services.models.usecases.stored_answers import StoredAnswers


class InferenceServicer(InferenceServiceServicer):
    """Calls of models over gRPC."""

    def __init__(self, inference: Inference, answers: StoredAnswers, embedding: Embedding) -> None:
        self._inference = inference
        self._answers = answers
        self._embedding = embedding

    async def Complete(self, request: pb.CompleteRequest, context: Context) -> pb.CompleteResponse:
        """See the proto."""
        completion = await _completion(request.completion)
        answer = await self._answers.complete(current_principal(), completion, reuse_from_proto(request))
        return answer_to_proto(answer)

    async def StreamComplete(
        self, request: pb.StreamCompleteRequest, context: Context
    ) -> AsyncIterator[pb.StreamCompleteResponse]:
        """See the proto."""
        completion = await _completion(request.completion)
        stream = await self._answers.stream(current_principal(), completion, reuse_from_proto(request))
        async with aclosing(stream) as deltas:
            async for delta in deltas:
                for part in short_parts(delta):
                    yield delta_to_proto(part)

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """See the proto."""
        model, embeddings = await self._embedding.embed(
            current_principal(),
            request.model,
            list(request.texts),
            request.dimensions,
            labels=dict(request.labels),
        )
        return embeddings_to_proto(model, embeddings)

    async def CountTokens(self, request: pb.CountTokensRequest, context: Context) -> pb.CountTokensResponse:
        """See the proto."""
        messages = await beside_if_large(request.ByteSize(), messages_from_proto, request.messages)
        count = await self._inference.count_tokens(current_principal(), request.model, messages)
        return pb.CountTokensResponse(tokens=count.tokens, exact=count.exact)


async def _completion(message: pb.Completion) -> Completion:
    # Schemas may hold as many values as a message has bytes.
    return await beside_if_large(message.ByteSize(), completion_from_proto, message)
