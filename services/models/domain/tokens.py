"""How many tokens texts have."""

from collections.abc import Sequence

from services.models.domain.conversation import Message

_INDENTATION = " " * 4


def estimate_tokens(text: str) -> int:
    """Return about how many tokens `text` has: four characters a token where they are ASCII, else one each."""
    ascii_length = len(text.encode("ascii", "ignore"))
    return -(-ascii_length // 4) + len(text) - ascii_length


def estimate_prompt_tokens(messages: Sequence[Message]) -> int:
    """Return about how many tokens a conversation has, with the few that every message adds."""
    return sum(
        4
        + estimate_tokens(message.text)
        + sum(estimate_tokens(call.name) + estimate_tokens(call.arguments_json) for call in message.tool_calls)
        for message in messages
    )


def least_tokens(text: str) -> int:
    """Return how many tokens `text` has at least, whatever the tokenizer.

    The best of them put six bytes of ASCII prose into one, eight of other scripts, and indentation into next to none.
    """
    spaces = text.count(_INDENTATION) * len(_INDENTATION)
    if text.isascii():
        return (len(text) - spaces) // 6
    ascii_length = len(text.encode("ascii", "ignore"))
    other_bytes = len(text.encode("utf-8", "surrogatepass")) - ascii_length
    return (ascii_length - spaces) // 6 + other_bytes // 8
