"""What calls cost by a model's prices."""

import math

import pytest

from services.models.domain.model import Capabilities, ModelSpec, Provider
from services.models.domain.prices import FREE, Prices
from services.models.domain.usage import Usage

MILLION = 1_000_000


def spec(provider: Provider = Provider.OPENAI, **fields: object) -> ModelSpec:
    return ModelSpec(**{"name": "a/m", "provider": provider, "capabilities": Capabilities(chat=True), **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prices", "usage", "dollars"),
    [
        (Prices(10, 0, cached_input=1), Usage(MILLION, cached_input_tokens=900_000), 1.90),
        (Prices(10, 0), Usage(MILLION, cached_input_tokens=900_000), 10.0),
        (Prices(10, 0, cached_input=0), Usage(MILLION, cached_input_tokens=900_000), 1.0),
        (Prices(4, 0, cache_write=5), Usage(MILLION, cache_write_input_tokens=500_000), 4.5),
        (Prices(4, 0), Usage(MILLION, cache_write_input_tokens=500_000), 4.0),
        (
            Prices(4, 8, cached_input=1, cache_write=5),
            Usage(MILLION, MILLION, cached_input_tokens=250_000, cache_write_input_tokens=250_000),
            2.0 + 0.25 + 1.25 + 8.0,
        ),
        (Prices(2, 8), Usage(MILLION, MILLION, reasoning_tokens=MILLION), 10.0),
        (Prices(None, 8), Usage(MILLION, MILLION), 8.0),
        (Prices(), Usage(MILLION, MILLION), 0.0),
        # An upstream that counts more cached tokens than tokens: those are paid, and nothing is paid back.
        (Prices(10, 0, cached_input=1), Usage(0, cached_input_tokens=MILLION), 1.0),
    ],
)
def test_each_kind_of_token_has_its_own_price(prices: Prices, usage: Usage, dollars: float) -> None:
    assert prices.cost(usage) == pytest.approx(dollars)


@pytest.mark.parametrize("price", [math.inf, math.nan, 1e308])
def test_a_cost_is_finite_whatever_the_prices(price: float) -> None:
    assert math.isfinite(Prices(price, price).cost(Usage(2**62, 2**62)))


def test_prices_are_known_when_both_input_and_output_have_one() -> None:
    assert Prices(0, 0).known
    assert not Prices(1, None).known
    assert not Prices(None, 1).known


def test_a_model_without_prices_has_none_unless_nobody_charges_for_it() -> None:
    assert spec().prices == Prices()
    assert spec(input_cost_per_million_tokens=1.0, cached_input_cost_per_million_tokens=0.5).prices == Prices(
        1.0, None, 0.5
    )
    for provider in (Provider.OFFLINE, Provider.OLLAMA, Provider.VLLM):
        assert spec(provider).prices == FREE
    assert not spec(Provider.OLLAMA, base_url="https://example.com/v1").prices.known
    assert spec(Provider.VLLM, output_cost_per_million_tokens=2.0).prices == Prices(None, 2.0)


def test_an_embedding_model_needs_no_price_of_output() -> None:
    embeds = Capabilities(embeddings=True)
    assert spec(capabilities=embeds, input_cost_per_million_tokens=0.02).prices.known
    assert not spec(capabilities=embeds).prices.known


def test_a_prompt_is_limited_by_the_window_unless_its_own_limit_is_less() -> None:
    assert spec(context_window=8000).input_limit == 8000
    assert spec(context_window=400_000, max_input_tokens=272_000).input_limit == 272_000
