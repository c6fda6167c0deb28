"""Counts of OpenAI's own tokenizers, without a download."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.child_process import BadFrame, ProcessGone
from services.models.domain.conversation import ContentPart, Image, Message, MessageRole
from services.models.domain.model import Model, ModelSpec, Provider
from services.models.providers.openai import tokenizer_process, tokenizers
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
async def counting() -> AsyncIterator[Tokenizers]:
    counting = Tokenizers()
    yield counting
    await counting.close()


@pytest.mark.parametrize("upstream", ["gpt-4o-mini", "gpt-4o-2024-08-06", "gpt-4", "gpt-3.5-turbo"])
async def test_conversations_have_the_tokens_that_openais_documentation_shows(
    counting: Tokenizers, upstream: str
) -> None:
    for messages, tokens in ((said("Say this is a test!"), 13), (said("You are a helpful assistant.", "Hello!"), 19)):
        count = await counting.count("g", model(upstream), messages)
        assert count is not None
        assert (count.tokens, count.exact) == (tokens, True)


async def test_what_reasoning_models_add_is_not_known(counting: Tokenizers) -> None:
    count = await counting.count("g", model("gpt-5-mini"), said("Say this is a test!"))
    assert count is not None
    assert (count.tokens, count.exact) == (13, False)


@pytest.mark.parametrize(
    "other",
    [model("gpt-4o", base_url="https://example.com/v1"), model("gpt-4o", Provider.VLLM), model("llama"), model("gpt2")],
)
async def test_other_models_have_other_tokenizers(counting: Tokenizers, other: Model) -> None:
    assert await counting.count("g", other, said("Hello")) is None


async def test_what_it_cannot_count_or_would_take_long_is_left_to_the_estimate(counting: Tokenizers) -> None:
    image = [Message(MessageRole.USER, (ContentPart("Look"), ContentPart(other=Image(data=PNG))))]
    for messages in (image, said("a" * 100_001), said("a\n" * 1_000_001)):
        assert await counting.count("g", model("gpt-4o"), messages) is None
    long = said("<|endoftext|>" + "word\n" * 50_000, "é" * 5)
    assert await counting.count("g", model("gpt-4o"), long) is not None


async def test_a_group_that_counts_much_keeps_no_other_waiting(counting: Tokenizers) -> None:
    most, hello = tokenizers._MOST_WAITING_OF_GROUP, said("Hello")
    counts = [asyncio.ensure_future(counting.count("much", model("gpt-4o"), hello)) for _ in range(most + 3)]
    await asyncio.sleep(0)
    assert await counting.count("little", model("gpt-4o"), hello) is not None
    assert [count is None for count in await asyncio.gather(*counts)] == [False] * most + [True] * 3
    assert await counting.count("much", model("gpt-4o"), hello) is not None
    assert not counting._waiting


@pytest.mark.parametrize("failure", [TimeoutError(), BadFrame("long"), ProcessGone("ended")])
async def test_what_takes_too_long_or_ends_the_process_is_left_to_the_estimate(
    counting: Tokenizers, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    async def ask(*_: object) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(counting._reader._helper, "ask", ask)
        assert await counting.count("g", model("gpt-4o"), said("Hello")) is None
    assert await counting.count("g", model("gpt-4o"), said("Hello")) is not None


@given(st.text(st.sampled_from("ab1é !/'\n\r\t\u2028の"), max_size=40))
def test_a_long_text_is_counted_in_pieces_without_a_difference(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_process, "_LONGEST_PIECE", 5)
        pieces = list(tokenizer_process.pieces(text))
    assert "".join(pieces) == text
    assert set(tokenizer_process._FILES) == tokenizers._TOKENIZERS
    for name in tokenizers._TOKENIZERS:
        tokenizer = tokenizer_process.load(name)
        assert sum(len(tokenizer.encode_ordinary(piece)) for piece in pieces) == len(tokenizer.encode_ordinary(text))
