"""Upstreams that speak OpenAI's HTTP interface: OpenAI, Azure, Databricks model serving, vLLM, Ollama, gateways."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from services.common.egress import origin_of, required_origin
from services.common.errors import CoxswainError, FailedPrecondition
from services.common.grpc.call import current_principal
from services.common.http import EgressClient
from services.common.identity.credentials import CredentialSource, Destination
from services.models.domain.answer import Answer, Delta, Embeddings
from services.models.domain.conversation import Completion, Message
from services.models.domain.model import Model, Provider
from services.models.domain.tokens import estimate_prompt_tokens
from services.models.providers.base import MayCall, TakeBatch, TokenCount
from services.models.providers.batches import Batches
from services.models.providers.group_shares import GroupShares
from services.models.providers.learned_from_refusals import Learned
from services.models.providers.openai.answers import read_document, read_stream, read_whole
from services.models.providers.openai.azure import azure_url
from services.models.providers.openai.client import OpenAIClient, Target
from services.models.providers.openai.embeddings import read_embeddings
from services.models.providers.openai.requests import ENCODING_FORMAT, chat_request, embeddings_request
from services.models.providers.openai.response_body import ResponseLimits
from services.models.providers.openai.tokenizers import Tokenizers
from services.models.providers.upstream_errors import quoted_words
from services.models.providers.upstreams import Attempt, Upstreams

_SETTINGS = {Provider.DATABRICKS: "DATABRICKS_HOST", Provider.AZURE: "AZURE_OPENAI_ENDPOINT"}
_OPTION_HEADERS = {"organization": "OpenAI-Organization", "project": "OpenAI-Project"}


class OpenAICompatibleProvider:
    """Calls upstreams directly; see `OpenAIClient`."""

    def __init__(
        self,
        egress: EgressClient,
        credentials: CredentialSource,
        base_urls: Mapping[Provider, str],
        upstreams: Upstreams,
        batches: Batches,
        responses: ResponseLimits,
        shares: GroupShares,
        *,
        idempotent_origins: frozenset[str] = frozenset(),
    ) -> None:
        """`base_urls` are the installation's defaults; an empty one means that there is none."""
        self._client = OpenAIClient(egress, credentials, responses, shares, idempotent_origins=idempotent_origins)
        self._base_urls = base_urls
        self._upstreams = upstreams
        self._batches = batches
        self._without_encoding_format = Learned[bool]()
        self._tokenizers = Tokenizers()

    async def complete(self, model: Model, completion: Completion, answer_by: float | None = None, /) -> Answer:
        """Return the upstream's whole answer."""

        async def send(attempt: Attempt) -> Answer:
            request = chat_request(attempt.model, completion, stream=False)
            document = await self._client.post(self._target(attempt, "chat/completions"), request)
            return read_whole(attempt, document, split_thoughts=not model.spec.keep_think_tags)

        return await self._upstreams.call(model, send, answer_by=answer_by)

    def stream(
        self, model: Model, completion: Completion, answer_by: float | None = None, /
    ) -> AsyncGenerator[Delta, None]:
        """Yield the upstream's answer as it comes."""

        def send(attempt: Attempt) -> AsyncGenerator[Delta, None]:
            request = chat_request(attempt.model, completion, stream=True)
            batches = self._client.stream(self._target(attempt, "chat/completions"), request)
            return read_stream(attempt, batches, split_thoughts=not model.spec.keep_think_tags)

        return self._upstreams.stream(model, send, answer_by=answer_by)

    async def embed(self, model: Model, texts: Sequence[str], dimensions: int, take: TakeBatch) -> None:
        """Fetch unit-length vectors in batches."""
        deadline = self._upstreams.deadline()

        async def fetch(batch: Sequence[str]) -> Embeddings:
            async def send(attempt: Attempt) -> Embeddings:
                request = embeddings_request(attempt.model, batch, dimensions)
                document = await self._post_embeddings(self._target(attempt, "embeddings"), request)
                return read_document(attempt, lambda body: read_embeddings(body, len(batch)), document)

            return await self._upstreams.call(
                model, send, deadline=deadline, longest_wait=self._upstreams.longest_batch_wait
            )

        await self._batches.embed(model, texts, fetch, take)

    async def _post_embeddings(self, target: Target, request: dict[str, Any]) -> Any:
        """Return the answer; an upstream that does not know the encoding is asked without it, from then on at once."""
        if self._without_encoding_format.get(target.model):
            request.pop(ENCODING_FORMAT, None)
        try:
            return await self._client.post(target, request)
        except CoxswainError as failure:
            if (
                ENCODING_FORMAT not in request
                or failure.reason != "UPSTREAM_REJECTED"
                or ENCODING_FORMAT not in quoted_words(failure)
            ):
                raise
        del request[ENCODING_FORMAT]
        document = await self._client.post(target, request)
        self._without_encoding_format.put(target.model, True)
        return document

    async def count_tokens(self, model: Model, messages: Sequence[Message], _may_call: MayCall, /) -> TokenCount:
        """Return what OpenAI's tokenizers count for its models, and an estimate for others: there is no way to ask."""
        counted = await self._tokenizers.count(current_principal().group_id, model, messages)
        return counted or TokenCount(estimate_prompt_tokens(messages), exact=False)

    def destination(self, model: Model) -> Destination:
        """Return the origin of the model's address, or of the installation's for its provider."""
        base_url = model.spec.base_url or self._base_urls.get(model.spec.provider, "")
        return Destination(origin_of(base_url) or "", model.spec.provider.value)

    async def close(self) -> None:
        """Close all connections."""
        await self._tokenizers.close()
        await self._client.close()

    def _target(self, attempt: Attempt, path: str) -> Target:
        model = attempt.model
        own = model.spec.base_url
        base_url = own or self._base_urls.get(model.spec.provider, "")
        if not base_url:
            setting = _SETTINGS.get(model.spec.provider, "OPENAI_BASE_URL")
            raise FailedPrecondition(
                f'"{model.name}" has no base_url, and this installation has no default address for its provider; '
                f"set the model's base_url or {setting}",
                reason="UPSTREAM_REJECTED",
                metadata={"model": model.name},
            )
        in_azure = model.spec.provider is Provider.AZURE
        return Target(
            attempt=attempt,
            url=azure_url(base_url, model, path) if in_azure else f"{base_url.rstrip('/')}/{path}",
            origin=required_origin(base_url),
            trusted=model.shared or not own,
            key_header="api-key" if in_azure else "",
            headers=_option_headers(model.spec.provider_options),
        )


def _option_headers(options: Mapping[str, str]) -> dict[str, str]:
    if not options:
        return {}
    return {header: value for name, header in _OPTION_HEADERS.items() if (value := options.get(name))}
