"""Counting tokens where a provider's interface does it, before anything is paid for."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import structlog

from services.common.errors import CoxswainError
from services.common.grpc.call import current_call
from services.models.domain.conversation import Message, MessageRole
from services.models.domain.model import Model
from services.models.providers.base import MayCall, TokenCount
from services.models.providers.litellm.destinations import required_destination
from services.models.providers.openai.client import OpenAIClient, Target
from services.models.providers.retries import RetryableError
from services.models.providers.upstreams import Attempt, CallId

logger = structlog.get_logger(__name__)

# A count is asked for before a call: one that takes long is worth less than an estimate.
_SECONDS = 5.0
# Kept of the caller's time, to answer with an estimate.
_SHARE = 0.5
_ANTHROPIC_VERSION = {"anthropic-version": "2023-06-01"}
_ANTHROPIC_ENDS = ("/v1/messages", "/v1")


class ProviderCounters:
    """Asks the counters of Anthropic and Gemini; the models of both are reached through litellm otherwise."""

    def __init__(self, client: OpenAIClient, base_urls: Mapping[str, str]) -> None:
        """`base_urls` maps litellm's providers to other addresses than their own."""
        self._client = client
        self._base_urls = base_urls

    async def count(self, model: Model, messages: Sequence[Message], may_call: MayCall) -> TokenCount | None:
        """Return what the model's provider counts, in one attempt; None where it has no counter or does not answer, or
        `may_call` forbids to ask it.

        Conversations of text alone are counted so: providers refuse calls of tools without their definitions.
        """
        place = model.places[0]
        provider, _, name = place.spec.upstream_name.partition("/")
        asked = _ASKED.get(provider)
        if asked is None or not all(map(_is_text, messages)) or not await may_call():
            return None
        remaining = current_call().time_remaining()
        seconds = _SECONDS if remaining is None else min(_SECONDS, remaining * _SHARE)
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                destination = required_destination(place, self._base_urls)
                url, request, key_header, headers, answer = asked(
                    destination.chat or destination.origin, name, messages
                )
                attempt = Attempt(place, deadline, deadline, CallId())
                target = Target(attempt, url, destination.origin, True, key_header, headers, provider)
                document = await self._client.post(target, request)
        except (CoxswainError, RetryableError, TimeoutError) as error:
            failure = error.failure if isinstance(error, RetryableError) else error
            logger.info("tokens_estimated", model=model.name, reason=getattr(failure, "reason", "DEADLINE_EXCEEDED"))
            return None
        tokens = document.get(answer) if isinstance(document, dict) else None
        # bool is an int, and neither is any other number a count.
        if type(tokens) is not int or not 0 < tokens < 2**53:
            logger.info("tokens_estimated", model=model.name, reason="UPSTREAM_BAD_RESPONSE")
            return None
        return TokenCount(tokens, exact=True)


_Question = tuple[str, dict[str, Any], str, Mapping[str, str], str]
"""The address, the request, the header of the key, further headers and the answer's field."""


def _ask_anthropic(base_url: str, name: str, messages: Sequence[Message]) -> _Question:
    base_url = base_url.rstrip("/")
    for end in _ANTHROPIC_ENDS:
        base_url = base_url.removesuffix(end)
    said = [{"role": each.role.value, "content": each.text} for each in messages if each.role is not MessageRole.SYSTEM]
    request: dict[str, Any] = {"model": name, "messages": said}
    if system := _system(messages):
        request["system"] = system
    return f"{base_url}/v1/messages/count_tokens", request, "x-api-key", _ANTHROPIC_VERSION, "input_tokens"


def _ask_gemini(base_url: str, name: str, messages: Sequence[Message]) -> _Question:
    base_url = base_url.rstrip("/")
    if "/v1" not in base_url:
        base_url += "/v1beta"
    said = [
        {"role": "model" if each.role is MessageRole.ASSISTANT else "user", "parts": [{"text": each.text}]}
        for each in messages
        if each.role is not MessageRole.SYSTEM
    ]
    request: dict[str, Any] = {"model": f"models/{name}", "contents": said}
    if system := _system(messages):
        request["systemInstruction"] = {"parts": [{"text": system}]}
    url = f"{base_url}/models/{quote(name, safe='')}:countTokens"
    return url, {"generateContentRequest": request}, "x-goog-api-key", {}, "totalTokens"


_ASKED = {"anthropic": _ask_anthropic, "gemini": _ask_gemini}


def _is_text(message: Message) -> bool:
    return (
        message.role is not MessageRole.TOOL
        and not message.tool_calls
        and all(part.other is None for part in message.content)
    )


def _system(messages: Sequence[Message]) -> str:
    return "\n\n".join(message.text for message in messages if message.role is MessageRole.SYSTEM)
