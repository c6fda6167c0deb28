"""litellm as the helper uses it: what it loses or makes up is put right in one place."""

import contextlib
import json
import os
import sys
import threading
from typing import Any

_START_NICENESS = 10
# litellm calls these a regular end, and so loses that the provider failed.
_FAILED_FINISHES = (
    "ERROR",
    "error",
    "network_error",
    "MALFORMED_FUNCTION_CALL",
    "MALFORMED_RESPONSE",
    "UNEXPECTED_TOOL_CALL",
    "TOO_MANY_TOOL_CALLS",
    "MISSING_THOUGHT_SIGNATURE",
)
# The statuses that Anthropic's errors have where they are no event of a stream.
_ANTHROPIC_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


def load_litellm() -> Any:
    """Import litellm in a thread of low priority: the seconds it takes are not taken from the services that start."""
    found: list[Any] = []

    def load() -> None:
        if sys.platform == "linux":
            # There, threads have priorities of their own; 0 is the one that asks.
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, 0, _START_NICENESS)
        import litellm

        found.append(litellm)

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    (litellm,) = found
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    # The service tries again, within the caller's deadline.
    litellm.num_retries = 0
    # An answer may say the same a hundred times.
    litellm.REPEATED_STREAMING_CHUNK_LIMIT = sys.maxsize
    _keep_failed_finishes()
    _keep_geminis_ends()
    _keep_openrouters_signatures()
    _keep_anthropics_errors()
    return litellm


def _keep_failed_finishes() -> None:
    from litellm.litellm_core_utils import core_helpers

    words: dict[str, Any] = core_helpers._FINISH_REASON_MAP  # noqa: SLF001  # no setting says so
    for word in _FAILED_FINISHES:
        words[word] = word.lower()
        words[word.lower()] = word.lower()


def _keep_geminis_ends() -> None:
    """Leave a piece of a stream of Gemini's without an end where it has none: litellm says "stop" in its place."""
    from litellm.llms.vertex_ai.gemini.vertex_and_google_ai_studio_gemini import VertexGeminiConfig

    config: Any = VertexGeminiConfig
    check = config._check_finish_reason  # noqa: SLF001  # no setting says so

    def check_what_came(message: Any, reason: str | None) -> Any:
        return check(message, reason) if reason else None

    config._check_finish_reason = staticmethod(check_what_came)  # noqa: SLF001


def _keep_openrouters_signatures() -> None:
    """Pass on pieces of a stream that hold nothing but `reasoning_details`: the signatures come in such."""
    from litellm.llms.openrouter.chat.transformation import OpenRouterChatCompletionStreamingHandler

    reader: Any = OpenRouterChatCompletionStreamingHandler
    parse = reader.chunk_parser

    def parse_with_reasoning(handler: Any, chunk: dict[str, Any]) -> Any:
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if delta.get("reasoning_details") and delta.get("reasoning") is None:
                delta["reasoning"] = ""
        return parse(handler, chunk)

    reader.chunk_parser = parse_with_reasoning


def _keep_anthropics_errors() -> None:
    """Pass on Anthropic's error events whole: litellm keeps their words alone, as an outage of status 500."""
    from litellm.llms.anthropic.chat.handler import ModelResponseIterator
    from litellm.llms.anthropic.common_utils import AnthropicError

    reader: Any = ModelResponseIterator
    parse = reader.chunk_parser

    def parse_with_errors(iterator: Any, chunk: dict[str, Any]) -> Any:
        if chunk.get("type") == "error" and isinstance(error := chunk.get("error"), dict):
            raise AnthropicError(_ANTHROPIC_STATUSES.get(str(error.get("type")), 500), json.dumps(chunk))
        return parse(iterator, chunk)

    reader.chunk_parser = parse_with_errors
