"""Models of every provider that litellm reaches."""

import ast
import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from services.common.child_process import BadFrame, ProcessGone
from services.common.errors import CoxswainError, InvalidArgument, PermissionDenied
from services.common.grpc.call import current_principal
from services.common.identity.credentials import CredentialSource, Destination, OutboundCredential
from services.models.domain.answer import Answer, Delta, Embeddings
from services.models.domain.conversation import Completion, Message
from services.models.domain.model import Model
from services.models.domain.tokens import estimate_prompt_tokens
from services.models.providers.base import TakeBatch, TokenCount
from services.models.providers.batches import Batches
from services.models.providers.fault_reading import holds_fault, read_fault
from services.models.providers.group_shares import GroupShares
from services.models.providers.litellm.arguments import provider_arguments
from services.models.providers.litellm.destinations import destination_of, required_destination
from services.models.providers.litellm.helper import LitellmError, LitellmHelper
from services.models.providers.litellm.pool import LitellmHelpers, NotStarted
from services.models.providers.litellm.refused_parameters import drop_refused, naming_dropped, refused_parameters
from services.models.providers.lost_work import report_lost_work
from services.models.providers.openai.answers import read_document, read_stream, read_whole
from services.models.providers.openai.embeddings import read_embeddings
from services.models.providers.openai.requests import chat_request, embeddings_request
from services.models.providers.provider_counters import ProviderCounters
from services.models.providers.retries import RetryableError, too_late
from services.models.providers.upstream_errors import (
    bad_response,
    is_retryable,
    retry_after_seconds,
    unavailable,
    upstream_failure,
)
from services.models.providers.upstreams import Attempt, Upstreams

_Request = dict[str, Any]
_IN_A_STREAM = "Got unexpected response from"
_MAX_LITERAL = 4000
# Kept of the time allowed, to say that no helper works.
_ANSWER_SECONDS = 0.5
_ANSWER_SHARE = 0.2
_PREFIX = re.compile(
    r"^(?:(?:litellm\.)?(?:[A-Za-z.]{1,80}(?:Error|Exception)\s*[:-]\s*)+(?:[A-Za-z_ -]{1,40}:\s+)?"
    r"|litellm\.\w{1,80}:\s+)"
)
_ADVICE = re.compile(r"\.? ?Handle with `litellm\.\w{1,80}`\.?\s*$")


class LitellmProvider:
    """Calls providers through the helper process."""

    def __init__(
        self,
        credentials: CredentialSource,
        counters: ProviderCounters,
        base_urls: Mapping[str, str],
        upstreams: Upstreams,
        batches: Batches,
        shares: GroupShares,
        helpers: LitellmHelpers,
        *,
        timeout_seconds: float,
    ) -> None:
        """`base_urls` maps litellm's providers to other addresses than their own.

        `timeout_seconds` is how long a provider may send nothing.
        """
        self._credentials = credentials
        self._counters = counters
        self._base_urls = base_urls
        self._upstreams = upstreams
        self._batches = batches
        self._shares = shares
        self._helpers = helpers
        self._timeout_seconds = timeout_seconds

    async def complete(self, model: Model, completion: Completion, answer_by: float | None = None, /) -> Answer:
        """Return the whole answer."""

        async def send(attempt: Attempt) -> Answer:
            dropped: list[str] = []
            document = await self._complete_once(attempt, completion, dropped)
            answer = read_whole(attempt.model, document, split_thoughts=not model.spec.keep_think_tags)
            return replace(answer, dropped_parameters=tuple(dropped)) if dropped else answer

        return await self._upstreams.call(model, send, answer_by=answer_by)

    def stream(
        self, model: Model, completion: Completion, answer_by: float | None = None, /
    ) -> AsyncGenerator[Delta, None]:
        """Yield the answer as it comes."""

        def send(attempt: Attempt) -> AsyncGenerator[Delta, None]:
            request = chat_request(attempt.model, completion, stream=True)
            del request["stream"]
            dropped: list[str] = []
            documents = self._documents(attempt, request, completion, dropped)
            deltas = read_stream(attempt.model, documents, split_thoughts=not model.spec.keep_think_tags)
            return naming_dropped(deltas, dropped) if completion.drop_unsupported_parameters else deltas

        return self._upstreams.stream(model, send, answer_by=answer_by)

    async def embed(self, model: Model, texts: Sequence[str], dimensions: int, take: TakeBatch) -> None:
        """Fetch unit-length vectors in batches."""
        deadline = self._upstreams.deadline()

        async def fetch(batch: Sequence[str]) -> Embeddings:
            async def send(attempt: Attempt) -> Embeddings:
                request = embeddings_request(attempt.model, batch, dimensions)
                document = await self._call_once(attempt, "embed", request)
                return read_document(attempt.model, lambda body: read_embeddings(body, len(batch)), document)

            return await self._upstreams.call(
                model, send, deadline=deadline, longest_wait=self._upstreams.longest_batch_wait
            )

        await self._batches.embed(model, texts, fetch, take)

    async def count_tokens(self, model: Model, messages: Sequence[Message]) -> TokenCount:
        """Return what the provider counts where it has a counter that answers, and an estimate elsewhere."""
        counted = await self._counters.count(model, messages)
        return counted or TokenCount(estimate_prompt_tokens(messages), exact=False)

    def destination(self, model: Model) -> Destination:
        """Return the origin of the provider's address, or of the operator's in its place."""
        provider = model.spec.upstream_name.partition("/")[0]
        return Destination(destination_of(model, self._base_urls).origin, provider)

    async def close(self) -> None:
        """End the helpers."""
        await self._helpers.close()

    async def _complete_once(self, attempt: Attempt, completion: Completion, dropped: list[str]) -> Any:
        """Return the answer's document; `dropped` gets the names of what was left out of the request."""
        request = chat_request(attempt.model, completion, stream=False)
        while True:
            try:
                return await self._call_once(attempt, "complete", request)
            except InvalidArgument as failure:
                if not (refused := drop_refused(request, completion, failure)):
                    raise
                dropped += refused

    async def _call_once(self, attempt: Attempt, kind: str, request: _Request) -> Any:
        async with contextlib.aclosing(self._call(attempt, kind, request)) as batches:
            async for batch in batches:
                return batch[0]
        raise bad_response(attempt.model, "it is empty")

    async def _documents(
        self, attempt: Attempt, request: _Request, completion: Completion, dropped: list[str]
    ) -> AsyncGenerator[list[Any], None]:
        """Yield the events of a stream in batches; only what fails before the first one may be retried.

        `dropped` gets the names of what was left out of the request.
        """
        begun = False
        while True:
            try:
                async with contextlib.aclosing(self._call(attempt, "stream", request)) as batches:
                    async for batch in batches:
                        begun = True
                        yield batch
                return
            except RetryableError as error:
                if begun:
                    raise error.failure from error.__cause__
                raise
            except InvalidArgument as failure:
                if begun or not (refused := drop_refused(request, completion, failure)):
                    raise
                dropped += refused

    async def _call(self, attempt: Attempt, kind: str, request: _Request) -> AsyncGenerator[list[Any], None]:
        """Yield the documents of one call, those together that arrived together.

        Raises:
            CoxswainError: a failure that stays.
            RetryableError: one that may pass.
        """
        model, latest = attempt.model, attempt.answer_by
        provider = model.spec.upstream_name.partition("/")[0]
        destination = required_destination(model, self._base_urls)
        origin = destination.origin
        credential = await self._credentials.resolve(origin, provider)
        address = destination.embeddings if kind == "embed" else destination.chat
        reached = provider_arguments(model, provider, credential.token, address)
        arguments = {**request, **reached.named, "timeout": self._timeout_seconds}
        limit = asyncio.timeout_at(latest)
        try:
            async with self._shares.slot(provider, current_principal().group_id):
                helper = await self._working_helper(attempt)
                async with contextlib.aclosing(helper.call(kind, arguments, origin)) as batches:
                    answered = False
                    while True:
                        limit = asyncio.timeout_at(latest)
                        try:
                            async with limit:
                                batch = await anext(batches, None)
                        except (asyncio.CancelledError, TimeoutError):
                            if not answered:
                                report_lost_work(model)
                            raise
                        answered, latest = True, attempt.deadline
                        if batch is None:
                            return
                        yield batch
        except TimeoutError as error:
            if not limit.expired():
                raise
            if latest < attempt.deadline:
                raise RetryableError(unavailable(model, "sent nothing for too long"), ours=True) from error
            raise too_late(model) from error
        except BadFrame as error:
            raise InvalidArgument.field("completion.messages", "must be smaller: they do not fit a request") from error
        except ProcessGone as error:
            gone = unavailable(model, "cannot be reached: the process that calls it ended")
            raise RetryableError(gone, ours=True) from error
        except LitellmError as error:
            failure, wait = _failure(model, error.error, replace(credential, token=reached.secret))
            if failure.reason == "UPSTREAM_CREDENTIAL_REJECTED":
                self._credentials.forget(origin, provider)
            if wait is not None:
                raise RetryableError(failure, wait) from error
            raise failure from error

    async def _working_helper(self, attempt: Attempt) -> LitellmHelper:
        # The caller hears why there is no answer while it still listens.
        remaining = attempt.answer_by - asyncio.get_running_loop().time()
        try:
            return await self._helpers.get(attempt.answer_by - min(_ANSWER_SECONDS, remaining * _ANSWER_SHARE))
        except NotStarted as error:
            what = "cannot be reached yet: the process that calls it has not started"
            failure = unavailable(attempt.model, what, retry_after=error.seconds)
            raise RetryableError(failure, error.seconds, ours=True) from error


def _failure(
    model: Model, error: Mapping[str, Any], credential: OutboundCredential
) -> tuple[CoxswainError, float | None]:
    """Return the failure that an error of litellm stands for, and the seconds to wait when it may pass."""
    status, message = error.get("status"), str(error.get("message") or "")
    if error.get("code") == "elsewhere":
        return _elsewhere(model, message), None
    if error.get("code") == "too_large":
        return bad_response(model, "it is larger than the limit"), None
    if error.get("code") == "unsupported_parameters":
        return refused_parameters(model, message), None
    if error.get("code") == "unexpected":
        return bad_response(model, "litellm cannot read it"), None
    if error.get("code") == "unreachable" or not isinstance(status, int) or not 400 <= status < 600:
        return unavailable(model, "did not answer"), 0.0
    retry_after = retry_after_seconds(error.get("headers") or {})
    document = None if error.get("code") else _own_document(message)
    if document is None:
        document = {"error": {"code": error.get("code"), "message": _own_words(message)}}
    # Then the status is litellm's, for an error in the middle of a stream of status 200.
    fault = read_fault(200 if _IN_A_STREAM in message and holds_fault(document) else status, document)
    failure = upstream_failure(model, fault, credential, retry_after)
    return failure, (retry_after or fault.retry_after or 0.0) if is_retryable(fault) else None


def _elsewhere(model: Model, origin: str) -> PermissionDenied:
    """Return the failure of a call that litellm would have sent to another origin than its credential's."""
    return PermissionDenied(
        f'calls of "{model.name}" would go to {origin}, and their credential was not asked for there; correct the '
        "options or the name of the model, or have the operator give the provider's address in "
        "COXSWAIN_MODELS_LITELLM_BASE_URLS",
        reason="DESTINATION_NOT_ALLOWED",
        metadata={"model": model.name, "origin": origin},
    )


def _own_words(message: str) -> str:
    """Return the provider's words in a message of litellm's: without the names of its exceptions and providers."""
    document = _own_document(message)
    return _ADVICE.sub("", _PREFIX.sub("", message)).strip() if document is None else read_fault(500, document).message


def _own_document(message: str) -> Any:
    """Return the provider's error in a message of litellm's, with its codes and details; None where it has no words."""
    start = message.find("{")
    if start < 0:
        return None
    try:
        document, _ = json.JSONDecoder().raw_decode(message, start)
    except (ValueError, RecursionError):
        try:
            # Some of litellm's messages show what came as Python writes it.
            document = ast.literal_eval(message[start : start + _MAX_LITERAL])
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    return document if read_fault(500, document).message else None
