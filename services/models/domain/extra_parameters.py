"""Parameters of providers that calls may pass on without a field of their own."""

import re

DEFAULT_EXTRA_PARAMETERS = (
    "chat_template_kwargs",
    "frequency_penalty",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "ignore_eos",
    "length_penalty",
    "logit_bias",
    "min_p",
    "min_tokens",
    "presence_penalty",
    "repetition_penalty",
    "safety_identifier",
    "service_tier",
    "skip_special_tokens",
    "structured_outputs",
    "top_a",
    "top_k",
    "typical_p",
    "user",
    "verbosity",
)
"""What is allowed unless the operator says otherwise.

Models reached through litellm take no more than these: litellm reads hundreds of other names itself, addresses, keys
and callbacks among them.
"""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
# What a request holds anyway, and what would make its answer another one than is read.
# fmt: off
_TAKEN = frozenset({
    "model", "messages", "stream", "stream_options", "tools", "tool_choice", "functions", "function_call",
    "response_format", "parallel_tool_calls", "temperature", "top_p", "max_tokens", "max_completion_tokens",
    "stop", "seed", "reasoning_effort", "thinking", "n", "best_of", "modalities", "audio", "prompt", "input",
    "echo",
})
_DANGEROUS_WORDS = frozenset({
    "key", "keys", "secret", "secrets", "password", "credential", "credentials", "auth", "url", "urls", "uri",
    "base", "address", "host", "hosts", "endpoint", "endpoints", "proxy", "callback", "callbacks", "webhook",
    "webhooks", "header", "headers", "body", "litellm",
})
# fmt: on


def may_be_allowed(name: str) -> bool:
    """Return whether an operator can allow a parameter.

    What has a field of its own is set there; nothing may name a key, an address or a callback.
    """
    return bool(_NAME.fullmatch(name)) and name not in _TAKEN and not _DANGEROUS_WORDS & set(name.split("_"))
