"""What the packaged list says of models, and where it counts."""

import csv
import io
import runpy
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from services.models import price_list
from services.models.domain.model import Capabilities, Deployment, Model, ModelSpec, Provider
from services.models.domain.prices import FREE, Prices
from services.models.price_list import complete_model, find_listed

ROOT = Path(__file__).resolve().parents[3]
COMMITTED = ROOT / "services" / "models" / "price_list.csv"
TOOL = runpy.run_path(str(ROOT / "tools" / "refresh_price_list.py"))
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def model(name: str, provider: Provider = Provider.OPENAI, **fields: Any) -> Model:
    spec = ModelSpec(name, provider, **fields)
    return Model("1", "sales", spec, enabled=True, created_at=NOW, updated_at=NOW)


def row(name: str, **facts: Any) -> dict[str, str]:
    rows: list[dict[str, str]] = TOOL["rows"]({name: {"mode": "chat", "litellm_provider": "openai", **facts}})
    return rows[0]


def test_the_committed_list_is_what_the_tool_writes() -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, TOOL["COLUMNS"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(TOOL["rows"](TOOL["read_source"]()))
    assert COMMITTED.read_text(encoding="utf-8") == text.getvalue(), "run: make price-list"


def test_every_row_of_the_list_can_be_read() -> None:
    rows = list(csv.DictReader(COMMITTED.read_text(encoding="utf-8").splitlines()))
    assert len(rows) > 3000
    for expected in rows:
        listed = find_listed(expected["model"])
        assert listed is not None
        assert listed.capabilities.chat != listed.capabilities.embeddings
        found = (listed.input, listed.output, listed.cached_input, listed.cache_write)
        columns = ("input", "output", "cached_input", "cache_write")
        assert found == tuple(float(expected[name]) if expected[name] else None for name in columns)
        assert all(price is None or 0 <= price <= 1_000_000 for price in found)
        sizes = (listed.max_input_tokens, listed.max_output_tokens, listed.dimension)
        assert sizes == tuple(
            int(expected[name] or 0) for name in ("max_input_tokens", "max_output_tokens", "dimension")
        )


def test_prices_are_for_a_million_tokens_with_the_digits_that_are_meant() -> None:
    found = row(
        "gpt-x",
        input_cost_per_token=1.4999999999999998e-07,
        output_cost_per_token=6e-05,
        cache_read_input_token_cost="7.5e-08",
        cache_creation_input_token_cost=0,
    )
    names = ("model", "input", "output", "cached_input", "cache_write")
    assert [found[name] for name in names] == ["openai/gpt-x", "0.15", "60", "0.075", "0"]


def test_a_list_that_calls_a_model_free_may_not_know_its_price() -> None:
    assert row("gpt-x", input_cost_per_token=0, output_cost_per_token=0.0)["input"] == ""
    assert row("embed", mode="embedding", input_cost_per_token=2e-8, output_cost_per_token=0)["output"] == "0"


@pytest.mark.parametrize(
    ("name", "provider", "full_name"),
    [
        ("gpt-4o", "openai", "openai/gpt-4o"),
        ("azure/gpt-4o", "azure", "azure/gpt-4o"),
        ("anthropic.claude-x", "bedrock_converse", "bedrock/anthropic.claude-x"),
        ("gemini-x", "vertex_ai-language-models", "vertex_ai/gemini-x"),
        ("command-r", "cohere_chat", "cohere/command-r"),
    ],
)
def test_a_model_is_listed_under_the_name_it_is_called_by(name: str, provider: str, full_name: str) -> None:
    assert row(name, litellm_provider=provider)["model"] == full_name


def test_of_two_rows_of_a_model_the_one_with_the_provider_in_its_name_counts() -> None:
    mine = {"mode": "chat", "litellm_provider": "gemini"}
    listed = {"gemini/x": mine | {"max_output_tokens": 7}, "x": mine | {"max_output_tokens": 9}}
    for source in (listed, dict(reversed(listed.items()))):
        (only,) = TOOL["rows"](source)
        assert (only["model"], only["max_output_tokens"]) == ("gemini/x", "7")


def test_a_model_without_sampling_takes_no_temperature() -> None:
    assert row("a", supports_sampling_params=False)["unsupported_parameters"] == "temperature top_p"
    assert row("a", supports_sampling_params=True)["unsupported_parameters"] == ""


def test_models_that_neither_answer_nor_embed_are_not_listed() -> None:
    assert TOOL["rows"]({"dall-e": {"mode": "image_generation", "litellm_provider": "openai"}}) == []


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    file = tmp_path / "list.csv"
    file.write_text(
        ",".join(TOOL["COLUMNS"]) + "\nopenai/m,10,20,1,12.5,272000,128000,,chat tools flying,temperature top_p\n"
        "openai/same-as-m,10,20,1,12.5,272000,128000,,chat tools flying,temperature top_p\n"
        "openai/e,0.5,0,,,8000,,256,embeddings,\nopenai/unknown,,,,,,,,chat,\nazure/m,11,22,,,,,,chat,\n"
        "databricks/m,12,24,,,,,,chat,\nanthropic/m,13,26,,,,,,chat,\n"
    )
    monkeypatch.setattr(price_list, "_FILE", file)
    price_list._rows.cache_clear()
    yield
    price_list._rows.cache_clear()


@pytest.mark.usefixtures("listed")
def test_what_a_model_leaves_out_is_filled_in_and_named() -> None:
    found = complete_model(model("a/b", upstream_model="m"))
    assert found.spec.prices == Prices(10, 20, 1, 12.5)
    assert (found.spec.context_window, found.spec.max_output_tokens) == (272_000, 128_000)
    assert (found.spec.input_limit, found.spec.max_input_tokens) == (272_000, 0)
    assert found.spec.capabilities == Capabilities(chat=True, tools=True)
    assert found.spec.unsupported_parameters == ("temperature", "top_p")
    assert len(found.listed_fields) == 8
    assert all(getattr(found.spec, name) != getattr(model("a/b").spec, name) for name in found.listed_fields)
    embeds = complete_model(model("openai/e"))
    assert (embeds.spec.embedding_dimension, embeds.spec.prices) == (256, Prices(0.5, 0))


@pytest.mark.usefixtures("listed")
def test_what_a_model_says_of_itself_stays() -> None:
    own: dict[str, Any] = {"context_window": 5, "max_output_tokens": 6, "capabilities": Capabilities(chat=True)}
    own["unsupported_parameters"] = ("seed",)
    found = complete_model(model("openai/m", input_cost_per_million_tokens=0.0, **own))
    assert {name: getattr(found.spec, name) for name in own} == own
    assert found.spec.prices == Prices(0.0, None)
    assert found.listed_fields == ()
    # The window that prompt and answer share is its own, and the limit of the prompt in it is the list's.
    found = complete_model(model("openai/m", **own | {"context_window": 400_000}))
    assert (found.spec.context_window, found.spec.input_limit) == (400_000, 272_000)


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize(
    ("provider", "fields", "price"),
    [
        (Provider.OPENAI, {}, 10),
        (Provider.AZURE, {}, 11),
        (Provider.DATABRICKS, {}, 12),
        (Provider.LITELLM, {"upstream_model": "anthropic/m"}, 13),
        (Provider.OPENAI, {"base_url": "https://example.com/v1"}, None),
        (Provider.AZURE, {"base_url": "https://example.com"}, None),
        (Provider.OPENAI, {"upstream_model": "of-our-own"}, None),
        (Provider.OPENAI, {"upstream_model": "unknown"}, None),
    ],
)
def test_only_what_the_provider_serves_at_its_own_address_is_priced(
    provider: Provider, fields: dict[str, Any], price: float | None
) -> None:
    assert complete_model(model("a/m", provider, **fields)).spec.prices.input == price


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize(
    ("deployments", "price"),
    [
        ([Deployment("", "m"), Deployment("", "same-as-m")], 10),
        ([Deployment("", "m"), Deployment("", "e")], None),
        ([Deployment("", "m"), Deployment("https://example.com/v1", "m")], None),
        ([Deployment("https://example.com/v1", "m")], None),
    ],
)
def test_several_deployments_are_priced_where_the_list_says_the_same_of_them(
    deployments: list[Deployment], price: float | None
) -> None:
    assert complete_model(model("a/other", deployments=tuple(deployments))).spec.prices.input == price


@pytest.mark.usefixtures("listed")
def test_deployments_that_differ_have_prices_of_their_own() -> None:
    deployments = (Deployment("", "m"), Deployment("", "e"), Deployment("https://example.com/v1", "m"))
    found = complete_model(model("a/other", deployments=deployments[:2]))
    assert [place.prices for place in found.places] == [Prices(10, 20, 1, 12.5), Prices(0.5, 0)]
    # What a call is expected to cost before anybody knows who answers.
    assert found.prices == Prices(10, 20, 1, 12.5)
    assert not complete_model(model("a/other", deployments=deployments)).prices.known
    agreed = complete_model(model("a/other", deployments=deployments, input_cost_per_million_tokens=3.0))
    assert {place.prices.input for place in agreed.places} == {3.0}


@pytest.mark.usefixtures("listed")
def test_only_those_deployments_are_free_that_are_on_the_operators_own_machine() -> None:
    at_home, away = Deployment("", "m"), Deployment("https://example.com/v1", "m")
    assert complete_model(model("a/m", Provider.VLLM, deployments=(at_home, Deployment("", "n")))).prices == FREE
    spread = complete_model(model("a/m", Provider.VLLM, deployments=(at_home, away)))
    assert not spread.prices.known
    assert [place.prices == FREE for place in spread.places] == [True, False]


@pytest.mark.usefixtures("listed")
def test_models_on_the_operators_own_machine_are_free_and_not_listed() -> None:
    for provider in (Provider.OFFLINE, Provider.OLLAMA, Provider.VLLM):
        untouched = model("a/m", provider)
        assert complete_model(untouched) is untouched
