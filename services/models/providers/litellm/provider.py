"""Models of every provider that litellm reaches."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from services.common.child_process import BadFrame, ProcessGone
from services.common.errors import CoxswainError, FailedPrecondition, InvalidArgument
from services.common.grpc.call import current_principal
from services.common.identity.credentials import CredentialSource, Destination, OutboundCredential
from services.models.domain.answer import Answer, Delta, Embeddings
from services.models.domain.conversation import Completion, Message
from services.models.domain.model import Model
from services.models.domain.tokens import estimate_prompt_tokens
from services.models.providers.base import MayCall, TakeBatch, TokenCount
from services.models.providers.batches import Batches
from services.models.providers.group_shares import GroupShares
from services.models.providers.litellm.arguments import provider_arguments
from services.models.providers.litellm.destinations import destination_of, required_destination
from services.models.providers.litellm.failures import failure_of, work_is_lost
from services.models.providers.litellm.helper import HelperLeaves, LitellmError, LitellmHelper, Progress
from services.models.providers.litellm.pool import LitellmHelpers, NotStarted
from services.models.providers.litellm.refused_parameters import drop_refused, naming_dropped
from services.models.providers.lost_work import report_lost_work
from services.models.providers.openai.answers import read_document, read_stream, read_whole
from services.models.providers.openai.embeddings import read_embeddings
from services.models.providers.openai.requests import chat_request, embeddings_request
from services.models.providers.provider_counters import ProviderCounters
from services.models.providers.retries import RetryableError, too_late
from services.models.providers.upstream_errors import bad_response, unavailable
from services.models.providers.upstreams import Attempt, Upstreams

_Request = dict[str, Any]
# Kept of the time allowed, to say that no helper works.
_ANSWER_SECONDS = 0.5
_ANSWER_SHARE = 0.2


class _StaleCredential(Exception):
    """A credential was refused that may have been replaced since it was remembered."""

    def __init__(self, failure: CoxswainError) -> None:
        super().__init__(failure.message)
        self.failure = failure


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
        first_byte_seconds: float,
        idle_seconds: float,
        connect_seconds: float,
    ) -> None:
        """`base_urls` maps litellm's providers to other addresses than their own.

        A provider may send nothing for `first_byte_seconds`, and for `idle_seconds` once its answer has begun.
        """
        self._credentials = credentials
        self._counters = counters
        self._base_urls = base_urls
        self._upstreams = upstreams
        self._batches = batches
        self._shares = shares
        self._helpers = helpers
        self._limits = {"connect": connect_seconds, "first_byte": first_byte_seconds, "idle": idle_seconds}

    async def complete(self, model: Model, completion: Completion, answer_by: float | None = None, /) -> Answer:
        """Return the whole answer."""

        async def send(attempt: Attempt) -> Answer:
            dropped: list[str] = []
            document = await self._complete_once(attempt, completion, dropped)
            answer = read_whole(attempt, document, split_thoughts=not model.spec.keep_think_tags)
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
            deltas = read_stream(attempt, documents, split_thoughts=not model.spec.keep_think_tags)
            return naming_dropped(deltas, dropped) if completion.drop_unsupported_parameters else deltas

        return self._upstreams.stream(model, send, answer_by=answer_by)

    async def embed(self, model: Model, texts: Sequence[str], dimensions: int, take: TakeBatch) -> None:
        """Fetch unit-length vectors in batches."""
        deadline = self._upstreams.deadline()

        async def fetch(batch: Sequence[str]) -> Embeddings:
            async def send(attempt: Attempt) -> Embeddings:
                request = embeddings_request(attempt.model, batch, dimensions)
                document = await self._call_once(attempt, "embed", request)
                return read_document(attempt, lambda body: read_embeddings(body, len(batch)), document)

            return await self._upstreams.call(
                model, send, deadline=deadline, longest_wait=self._upstreams.longest_batch_wait
            )

        await self._batches.embed(model, texts, fetch, take)

    async def count_tokens(self, model: Model, messages: Sequence[Message], may_call: MayCall, /) -> TokenCount:
        """Return what the provider counts where it has a counter that answers, and an estimate elsewhere."""
        counted = await self._counters.count(model, messages, may_call)
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

        A remembered credential that is refused is asked for anew, once.

        Raises:
            CoxswainError: a failure that stays.
            RetryableError: one that may pass.
        """
        for again in (False, True):
            try:
                async with contextlib.aclosing(self._send(attempt, kind, request)) as batches:
                    async for batch in batches:
                        yield batch
                return
            except _StaleCredential as stale:
                if again:
                    raise stale.failure from stale.__cause__

    async def _send(self, attempt: Attempt, kind: str, request: _Request) -> AsyncGenerator[list[Any], None]:
        """Send a call once; see `_call`."""
        model, latest = attempt.model, attempt.answer_by
        provider = model.spec.upstream_name.partition("/")[0]
        destination = required_destination(model, self._base_urls)
        origin = destination.origin
        credential = await self._credentials.resolve(origin, provider)
        address = destination.embeddings if kind == "embed" else destination.chat
        try:
            reached = provider_arguments(model, provider, credential.token, address)
        except FailedPrecondition as wrong:
            raise self._refused(wrong, credential, origin, provider) from None
        secret = replace(credential, token=reached.secret)
        attempt.credential = secret
        arguments = {**request, **reached.named}
        progress = Progress()
        answered = False
        limit = asyncio.timeout_at(latest)
        try:
            async with (
                self._shares.slot(origin, current_principal().group_id),
                contextlib.aclosing(self._helped(attempt, kind, arguments, origin, progress)) as batches,
            ):
                while True:
                    limit = asyncio.timeout_at(latest)
                    try:
                        async with limit:
                            batch = await anext(batches, None)
                    except (asyncio.CancelledError, TimeoutError):
                        # We give up, not the provider: it goes on, and has it paid for.
                        if progress.sent and not answered:
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
            if progress.sent and not answered:
                report_lost_work(model)
            gone = unavailable(model, "cannot be reached: the process that calls it ended")
            raise RetryableError(gone, ours=True) from error
        except LitellmError as error:
            if work_is_lost(error.error, sent=progress.sent) and not answered:
                report_lost_work(model)
            failure = failure_of(
                model, error.error, secret, streamed=kind == "stream", idle_seconds=self._limits["idle"]
            )
            if isinstance(failure, CoxswainError) and failure.reason == "UPSTREAM_CREDENTIAL_REJECTED":
                refused = self._refused(failure, credential, origin, provider)
                raise (failure if answered else refused) from error
            raise failure from error

    async def _helped(
        self, attempt: Attempt, kind: str, arguments: Mapping[str, Any], origin: str, progress: Progress
    ) -> AsyncGenerator[list[Any], None]:
        """Yield what a helper that takes the call makes of it; see `LitellmHelper.call`.

        Several may leave one after the other where a file that all have read was replaced: that is no failed attempt.
        """
        while True:
            helper = await self._working_helper(attempt)
            with contextlib.suppress(HelperLeaves):
                async with contextlib.aclosing(helper.call(kind, arguments, origin, self._limits, progress)) as batches:
                    async for batch in batches:
                        yield batch
                return

    def _refused(
        self, failure: CoxswainError, credential: OutboundCredential, origin: str, provider: str
    ) -> "CoxswainError | _StaleCredential":
        """Forget a credential that was refused, and return what to raise."""
        self._credentials.forget(origin, provider)
        # What a valid one may not do is refused for good.
        if credential.from_cache and failure.metadata.get("http_status") != "403":
            return _StaleCredential(failure)
        return failure

    async def _working_helper(self, attempt: Attempt) -> LitellmHelper:
        # The caller hears why there is no answer while it still listens.
        remaining = attempt.answer_by - asyncio.get_running_loop().time()
        try:
            return await self._helpers.get(attempt.answer_by - min(_ANSWER_SECONDS, remaining * _ANSWER_SHARE))
        except NotStarted as error:
            what = "cannot be reached yet: the process that calls it has not started"
            failure = unavailable(attempt.model, what, retry_after=error.seconds)
            raise RetryableError(failure, error.seconds, ours=True) from error
