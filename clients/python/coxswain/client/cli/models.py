"""The command `models`: all that the group can see, or one with its prices and limits."""

from typing import Annotated

import typer

from coxswain.client.cli.session import JsonOption, add_row, session_of, table
from coxswain.client.paging import pages
from coxswain.models.v1.model_pb2 import CredentialAvailability, GetModelRequest, ListModelsRequest, Model, Provider

_CREDENTIALS = {"NOT_NEEDED": "not needed", "AVAILABLE": "yes", "MISSING": "no"}
_CAPABILITIES = ("chat", "embeddings", "tools", "json_schema", "reasoning", "images", "documents", "audio")
_LIMITS = {
    "context_window": "tokens of prompt and answer",
    "max_input_tokens": "tokens of a prompt",
    "max_output_tokens": "tokens of an answer",
    "embedding_dimension": "components of a vector",
}
_PRICES = {
    "input_cost_per_million_tokens": "$ per million input tokens",
    "cached_input_cost_per_million_tokens": "$ per million cached input tokens",
    "cache_write_cost_per_million_tokens": "$ per million tokens written to the cache",
    "output_cost_per_million_tokens": "$ per million output tokens",
}
_ALWAYS_SHOWN = {"input_cost_per_million_tokens", "output_cost_per_million_tokens"}


def models(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="Name of one model, to see its prices and limits; empty: all models.")
    ] = "",
    enabled: Annotated[bool, typer.Option("--enabled", help="Only models your group may call.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the models your group can see, or show one with its prices and where they come from.

    Example: `coxswain models openai/gpt-5`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        if name:
            found = [client.models.GetModel(GetModelRequest(name=name)).model]
        else:
            found = list(pages(client.models.ListModels, ListModelsRequest(enabled_only=enabled), "models"))
    if session.json:
        return session.print_json(found[0] if name else found)
    if name:
        made = table("what", "value", "from")
        for row in _details(found[0]):
            add_row(made, *row)
    else:
        made = table("name", "provider", "can", ">context", "enabled", "credential", "what")
        for model in found:
            window = f"{model.context_window:,}" if model.context_window else ""
            key, usable = _credential(model), "yes" if model.enabled else "no"
            add_row(made, model.name, _provider(model), _can(model), window, usable, key, model.description)
    session.out.print(made)
    return None


def _details(model: Model) -> list[tuple[str, str, str]]:
    """Return what is known of a model: what it is, its value, and where that comes from."""

    def source(field: str) -> str:
        return "packaged list" if field in model.listed_fields else "configuration"

    rows = [
        ("name", model.name, ""),
        ("provider", _provider(model), ""),
        ("name upstream", model.upstream_model, ""),
        ("address", model.base_url, ""),
        ("can", _can(model), source("capabilities")),
    ]
    rows += [
        (what, f"{getattr(model, field):,}", source(field)) for field, what in _LIMITS.items() if getattr(model, field)
    ]
    for field, what in _PRICES.items():
        if model.HasField(field):  # type: ignore[arg-type]
            rows.append((what, f"{getattr(model, field):g}", source(field)))
        elif field in _ALWAYS_SHOWN:
            rows.append((what, "none", ""))
    rows += [
        ("does not take", ", ".join(model.unsupported_parameters), source("unsupported_parameters")),
        ("enabled", "yes" if model.enabled else "no", ""),
        ("credential", _credential(model), ""),
        ("shared by all groups", "yes" if model.shared else "no", ""),
    ]
    return [row for row in rows if row[1]]


def _can(model: Model) -> str:
    return ", ".join(name for name in _CAPABILITIES if getattr(model.capabilities, name))


def _provider(model: Model) -> str:
    return Provider.Name(model.provider).removeprefix("PROVIDER_").lower()


def _credential(model: Model) -> str:
    name = CredentialAvailability.Name(model.credential).removeprefix("CREDENTIAL_AVAILABILITY_")
    return _CREDENTIALS.get(name, "unknown")
