"""Writes services/models/price_list.csv from the list of models that the locked litellm package carries.

`python tools/refresh_price_list.py TARGET`. Prices are US dollars for a million tokens of an ordinary call: what costs
more in very long prompts, or less in batches, is not told apart. litellm is not imported.
"""

import csv
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

_LIST = "model_prices_and_context_window_backup.json"
_MODES = {"chat": "chat", "responses": "chat", "embedding": "embeddings"}
# The list tells families of one provider apart; a model is called by the provider alone.
_PROVIDERS = {"bedrock_converse": "bedrock", "cohere_chat": "cohere", "fireworks_ai-embedding-models": "fireworks_ai"}
_FAMILIES = "vertex_ai-"
_FLAGS = {
    "tools": "supports_function_calling",
    "json_schema": "supports_response_schema",
    "reasoning": "supports_reasoning",
    "images": "supports_vision",
    "documents": "supports_pdf_input",
    "audio": "supports_audio_input",
}
COLUMNS = (
    "model",
    "input",
    "output",
    "cached_input",
    "cache_write",
    "max_input_tokens",
    "max_output_tokens",
    "dimension",
    "capabilities",
    "unsupported_parameters",
)


def rows(models: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return the rows of the models that answer or embed, by name: `provider/model`."""
    found: dict[str, dict[str, str]] = {}
    for name, facts in models.items():
        provider, kind = _provider(facts), _MODES.get(str(facts.get("mode")))
        if kind is None or not provider:
            continue
        has_provider = name.startswith(f"{provider}/")
        full_name = name if has_provider else f"{provider}/{name}"
        # Some are there twice: with the provider in the name, a model is meant as that provider serves it.
        if has_provider or full_name not in found:
            found[full_name] = _row(full_name, kind, facts)
    return [found[name] for name in sorted(found)]


def _provider(facts: dict[str, Any]) -> str:
    provider = str(facts.get("litellm_provider", ""))
    if provider.startswith(_FAMILIES):
        return _FAMILIES.rstrip("-")
    return _PROVIDERS.get(provider, provider)


def _row(name: str, kind: str, facts: dict[str, Any]) -> dict[str, str]:
    given, output = _per_million(facts, "input_cost_per_token"), _per_million(facts, "output_cost_per_token")
    row = dict.fromkeys(COLUMNS, "") | {
        "model": name,
        "max_input_tokens": _count(facts, "max_input_tokens", "max_tokens"),
        "capabilities": " ".join([kind, *(word for word, flag in _FLAGS.items() if facts.get(flag) is True)]),
    }
    if kind == "chat":
        row["max_output_tokens"] = _count(facts, "max_output_tokens")
        if facts.get("supports_sampling_params") is False:
            row["unsupported_parameters"] = "temperature top_p"
    else:
        row["dimension"] = _count(facts, "output_vector_size")
    # Where all is 0, the list often means a price that it does not know.
    if given not in ("", "0") or output not in ("", "0"):
        row |= {
            "input": given,
            "output": output,
            "cached_input": _per_million(facts, "cache_read_input_token_cost", "input_cost_per_token_cache_hit"),
            "cache_write": _per_million(facts, "cache_creation_input_token_cost"),
        }
    return row


def _per_million(facts: dict[str, Any], *names: str) -> str:
    """Return a price for a million tokens, with the digits that the list means; empty when it names none."""
    for name in names:
        price = facts.get(name)
        if isinstance(price, int | float | str) and price != "":
            return f"{float(price) * 1_000_000:.6g}"
    return ""


def _count(facts: dict[str, Any], *names: str) -> str:
    for name in names:
        value = facts.get(name)
        if isinstance(value, int | float) and value > 0:
            return str(int(value))
    return ""


def read_source() -> dict[str, dict[str, Any]]:
    """Return the list of the installed package."""
    package = importlib.util.find_spec("litellm")
    if package is None or not package.submodule_search_locations:
        sys.exit("litellm is not installed")
    source = Path(package.submodule_search_locations[0]) / _LIST
    models: dict[str, dict[str, Any]] = json.loads(source.read_text(encoding="utf-8"))
    return models


def main() -> None:
    """Write the list."""
    target = Path(sys.argv[1])
    written = rows(read_source())
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(written)
    print(f"{target}: {len(written)} models")


if __name__ == "__main__":
    main()
