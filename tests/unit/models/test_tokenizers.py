"""Counts of OpenAI's own tokenizers, without a download."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.models.domain.conversation import ContentPart, Image, Message, MessageRole
from services.models.domain.model import Model, ModelSpec, Provider
from services.models.providers.openai import tokenizers
from services.models.providers.openai.tokenizers import Tokenizers
from tests.support.media_samples import PNG

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def model(upstream: str, provider: Provider = Provider.OPENAI, base_url: str = "") -> Model:
    spec = ModelSpec("m", provider, upstream_model=upstream, base_url=base_url)
    return Model("1", "", spec, enabled=True, created_at=NOW, updated_at=NOW)


def said(*texts: str) -> list[Message]:
    roles = [MessageRole.USER, MessageRole.SYSTEM]
    return [Message(roles[len(texts) - 1 - place], (ContentPart(text),)) for place, text in enumerate(texts)]


@pytest.fixture
def counting() -> Iterator[Tokenizers]:
    counting = Tokenizers()
    yield counting
    counting.close()


@pytest.mark.parametrize("upstream", ["gpt-4o-mini", "gpt-4o-2024-08-06", "gpt-4", "gpt-3.5-turbo"])
async def test_conversations_have_the_tokens_that_openais_documentation_shows(
    counting: Tokenizers, upstream: str
) -> None:
    for messages, tokens in ((said("Say this is a test!"), 13), (said("You are a helpful assistant.", "Hello!"), 19)):
        count = await counting.count(model(upstream), messages)
        assert count is not None
        assert (count.tokens, count.exact) == (tokens, True)


async def test_what_reasoning_models_add_is_not_known(counting: Tokenizers) -> None:
    count = await counting.count(model("gpt-5-mini"), said("Say this is a test!"))
    assert count is not None
    assert (count.tokens, count.exact) == (13, False)


@pytest.mark.parametrize(
    "other",
    [model("gpt-4o", base_url="https://example.com/v1"), model("gpt-4o", Provider.VLLM), model("llama"), model("gpt2")],
)
async def test_other_models_have_other_tokenizers(counting: Tokenizers, other: Model) -> None:
    assert await counting.count(other, said("Hello")) is None


async def test_what_it_cannot_count_or_would_take_long_is_left_to_the_estimate(counting: Tokenizers) -> None:
    image = [Message(MessageRole.USER, (ContentPart("Look"), ContentPart(other=Image(data=PNG))))]
    for messages in (image, said("a" * 100_001), said("a\n" * 1_000_001)):
        assert await counting.count(model("gpt-4o"), messages) is None
    assert await counting.count(model("gpt-4o"), said("<|endoftext|>" + "word\n" * 50_000)) is not None
    counting._waiting = tokenizers._MOST_WAITING
    assert await counting.count(model("gpt-4o"), said("Hello")) is None


@given(st.text(st.sampled_from("ab1é !/'\n\r\t\u2028の"), max_size=40))
def test_a_long_text_is_counted_in_pieces_without_a_difference(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizers, "_LONGEST_PIECE", 5)
        pieces = list(tokenizers._pieces(text))
    assert "".join(pieces) == text
    for name in tokenizers._FILES:
        tokenizer = tokenizers._load(name)
        assert tokenizer is not None
        assert sum(len(tokenizer.encode_ordinary(piece)) for piece in pieces) == len(tokenizer.encode_ordinary(text))
