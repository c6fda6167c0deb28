"""What an upstream wants back of a model's thinking, as callers keep it: opaque text for them."""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class ThinkingForm(StrEnum):
    """Where a provider has thinking in its messages; the values are the fields of a message."""

    CONTENT = "content"
    """Blocks of the content: Claude and gpt-oss on Databricks, Mistral."""
    BLOCKS = "thinking_blocks"
    """Anthropic's blocks beside the content, as litellm has them."""
    DETAILS = "reasoning_details"
    """OpenRouter's."""
    SIGNATURES = "thought_signatures"
    """Gemini's signatures of a text, as litellm has them."""
    REASONING_CONTENT = "reasoning_content"
    """Plain text: DeepSeek, Moonshot, vLLM."""
    REASONING = "reasoning"
    """Plain text: newer vLLM, Ollama and others."""


PLAIN_FORMS = (ThinkingForm.REASONING_CONTENT, ThinkingForm.REASONING)
"""Forms in which the words are all there is."""

BLOCK_TYPES = {
    ThinkingForm.CONTENT: frozenset({"reasoning", "thinking", "redacted_thinking"}),
    ThinkingForm.BLOCKS: frozenset({"thinking", "redacted_thinking"}),
    ThinkingForm.DETAILS: frozenset({"reasoning.text", "reasoning.summary", "reasoning.encrypted"}),
}
"""Types of a form's blocks. Nothing else is taken from callers: what they hand back goes into a request as it is."""


@dataclass(frozen=True, slots=True)
class ThinkingState:
    """A piece of thinking as its upstream sent it."""

    model: str
    """Our name of the model that thought it; no other model gets it back."""
    form: ThinkingForm
    value: Any = None
    """A block of the form; a signature; None for plain text."""

    def to_text(self) -> str:
        """Return what callers keep."""
        document = {"model": self.model, "form": self.form.value}
        if self.value is not None:
            document["value"] = self.value
        return json.dumps(document, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> "ThinkingState":
        """Return what a caller has handed back.

        Raises:
            ValueError: it is not what `to_text` returned.
        """
        try:
            document = json.loads(text)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if not isinstance(document, dict) or not isinstance(document.get("model"), str):
            raise ValueError("it names no model")
        state = cls(document["model"], ThinkingForm(str(document.get("form"))), document.get("value"))
        if state.form in PLAIN_FORMS:
            valid = state.value is None
        elif state.form is ThinkingForm.SIGNATURES:
            valid = isinstance(state.value, str)
        else:
            valid = isinstance(state.value, dict) and str(state.value.get("type")) in BLOCK_TYPES[state.form]
        if not valid:
            raise ValueError("it does not have the form it names")
        return state
