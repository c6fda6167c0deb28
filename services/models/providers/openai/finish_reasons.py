"""Providers' words for why an answer ended."""

from collections.abc import Mapping

from services.models.domain.answer import FinishReason

FINISH_REASONS: Mapping[str, FinishReason] = {
    **dict.fromkeys(
        ("stop", "end_turn", "stop_sequence", "eos", "eos_token", "end_of_text", "complete", "completed", "done"),
        FinishReason.STOP,
    ),
    **dict.fromkeys(
        ("length", "max_tokens", "max_output_tokens", "model_length", "max_length", "error_limit", "incomplete"),
        FinishReason.LENGTH,
    ),
    **dict.fromkeys(("tool_calls", "tool_call", "tool_use", "function_call"), FinishReason.TOOL_CALLS),
    **dict.fromkeys(
        (
            "content_filter",
            "content_filtered",
            "content-filter",
            "safety",
            "recitation",
            "prohibited_content",
            "blocklist",
            "spii",
            "image_safety",
            "refusal",
            "guardrail_intervened",
            "error_toxic",
            "sensitive",
        ),
        FinishReason.CONTENT_FILTER,
    ),
}
FAILED_FINISHES = frozenset(
    {
        "error",
        "failed",
        "malformed_function_call",
        "unexpected_tool_call",
        "insufficient_system_resource",
        "network_error",
        "aborted",
    }
)
