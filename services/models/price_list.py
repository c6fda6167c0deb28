"""What the packaged list knows of models: prices, limits and capabilities, by provider and upstream name.

`make price-list` writes it from the list that the locked litellm package carries.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from services.models.domain.model import PRICE_FIELDS, Capabilities, Model, ModelSpec, Provider

_FILE = Path(__file__).with_name("price_list.csv")
_CAPABILITIES = frozenset(field.name for field in fields(Capabilities))


@dataclass(frozen=True, slots=True)
class ListedModel:
    """What is known of one model; None and 0 are unknown."""

    input: float | None
    output: float | None
    cached_input: float | None
    cache_write: float | None
    max_input_tokens: int
    max_output_tokens: int
    dimension: int
    capabilities: Capabilities
    unsupported_parameters: tuple[str, ...]


def find_listed(name: str) -> ListedModel | None:
    """Return what is known of a model by its full name: `openai/gpt-5`, or the name litellm has for it."""
    row = _rows().get(name)
    return None if row is None else _read(row)


def complete_model(model: Model) -> Model:
    """Return a model in which the list fills in what its configuration leaves out.

    Only what the provider itself serves is in the list: a model with an address of its own stays as it is. One with
    deployments of which the list does not say the same gets the prices of each.
    """
    known = [None if place.spec.base_url else find_listed(_full_name(place.spec)) for place in model.places]
    listed = known[0]
    if any(other != listed for other in known):
        return _with_place_prices(model, known)
    if listed is None:
        return model
    filled = _missing(model.spec, listed)
    return replace(model, spec=replace(model.spec, **filled), listed_fields=tuple(filled)) if filled else model


def _with_place_prices(model: Model, known: Sequence[ListedModel | None]) -> Model:
    if any(getattr(model.spec, name) is not None for name in PRICE_FIELDS):
        return model
    found = tuple(
        place.spec.prices if listed is None else replace(place.spec, **_missing(place.spec, listed)).prices
        for place, listed in zip(model.places, known, strict=True)
    )
    return replace(model, place_prices=found)


def _full_name(spec: ModelSpec) -> str:
    return spec.upstream_name if spec.provider is Provider.LITELLM else f"{spec.provider.value}/{spec.upstream_name}"


def _missing(spec: ModelSpec, listed: ListedModel) -> dict[str, Any]:
    """Return the values of fields that a configuration leaves out and the list knows."""
    filled: dict[str, Any] = {}
    # Prices that somebody has agreed on are not mixed with others.
    if all(getattr(spec, name) is None for name in PRICE_FIELDS):
        prices = (listed.input, listed.output, listed.cached_input, listed.cache_write)
        filled |= {name: price for name, price in zip(PRICE_FIELDS, prices, strict=True) if price is not None}
    window = spec.context_window
    if not window and listed.max_input_tokens:
        window = filled["context_window"] = listed.max_input_tokens
    if not spec.max_input_tokens and 0 < listed.max_input_tokens < window:
        filled["max_input_tokens"] = listed.max_input_tokens
    if not spec.max_output_tokens and listed.max_output_tokens:
        filled["max_output_tokens"] = listed.max_output_tokens
    if not spec.embedding_dimension and listed.dimension:
        filled["embedding_dimension"] = listed.dimension
    if spec.capabilities == Capabilities():
        filled["capabilities"] = listed.capabilities
    if not spec.unsupported_parameters and listed.unsupported_parameters:
        filled["unsupported_parameters"] = listed.unsupported_parameters
    return filled


@functools.cache
def _rows() -> dict[str, str]:
    """Return the rows as they are, by name: few of the thousands are ever read."""
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    return {name: row for name, _, row in (line.partition(",") for line in lines[1:])}


@functools.cache
def _read(row: str) -> ListedModel:
    *prices, max_input, max_output, dimension, capabilities, unsupported = row.split(",")
    given, output, cached_input, cache_write = (float(price) if price else None for price in prices)
    return ListedModel(
        input=given,
        output=output,
        cached_input=cached_input,
        cache_write=cache_write,
        max_input_tokens=int(max_input or 0),
        max_output_tokens=int(max_output or 0),
        dimension=int(dimension or 0),
        capabilities=Capabilities(**dict.fromkeys(_CAPABILITIES.intersection(capabilities.split()), True)),
        unsupported_parameters=tuple(unsupported.split()),
    )
