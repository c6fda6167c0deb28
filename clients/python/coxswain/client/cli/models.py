"""Commands about models: models list, get, create, enable, disable, test, delete."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coxswain.client.cli.listing import Listing
from coxswain.client.cli.listing_group import NamingGroup
from coxswain.client.cli.session import JsonOption, Session, add_row, confirm, one_line, session_of, table
from coxswain.client.later import documents, inference_pb2, message_reader, model_pb2
from coxswain.client.paging import pages

if TYPE_CHECKING:
    from rich.table import Table


app = typer.Typer(cls=NamingGroup, help="List the models your group can see; show, create, enable, try one.")

NameArgument = Annotated[str, typer.Argument(help="Name of the model, as `coxswain models` lists it.")]
PROVIDERS = ("offline", "openai", "databricks", "litellm", "azure", "ollama", "vllm")
_CREDENTIALS = {"NOT_NEEDED": "not needed", "AVAILABLE": "yes", "MISSING": "no"}
_KEYS = {"NOT_NEEDED": "-", "AVAILABLE": "yes", "MISSING": "missing"}
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
# Where terminals are narrower, values need the place.
_WIDTH_WITH_SOURCES = 80
_ALWAYS_SHOWN = {"input_cost_per_million_tokens", "output_cost_per_million_tokens"}


@app.command("list")
def list_models(
    context: typer.Context,
    enabled: Annotated[bool, typer.Option("--enabled", help="Only models your group may call.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the models your group can see. `key` says whether there is a credential: yes, missing, or - for no need.

    Example: `coxswain models list --enabled`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = list(pages(client.models.ListModels, model_pb2.ListModelsRequest(enabled_only=enabled), "models"))
    if session.json:
        return session.print_json(found)
    return session.out.print(_listing(found))


@app.command()
def get(context: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """Show a model with its prices and limits, and where they come from.

    Example: `coxswain models get openai/gpt-5`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        model = client.models.GetModel(model_pb2.GetModelRequest(name=name)).model
    if session.json:
        return session.print_json(model)
    return _show(session, model)


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A new name, such as local/llama; calls use it.")],
    provider: Annotated[str, typer.Option(help=f"One of {', '.join(PROVIDERS)}.")] = "",
    upstream: Annotated[str, typer.Option("--upstream-model", help="The provider's name of it, if another.")] = "",
    base_url: Annotated[str, typer.Option(help="Address of the provider, if not its usual one.")] = "",
    can: Annotated[
        list[str] | None,
        typer.Option(
            help=f"What it can, where the packaged list does not know it: {', '.join(_CAPABILITIES)}; repeatable."
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="YAML or JSON in the shape of Model, for all else.", exists=True),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a model known to the group (admins). What it can and costs comes from the packaged list, if that has it.

    Examples:

        coxswain models create local/llama --provider ollama --upstream-model llama3.2 --can chat --can tools

        coxswain models create local/embed -f model.yaml
    """
    session = session_of(context, as_json)
    model = _from_file(file) if file else model_pb2.Model()
    model.name = name
    if provider:
        if provider not in PROVIDERS:
            raise typer.BadParameter(f"expected one of {', '.join(PROVIDERS)}", param_hint="--provider")
        model.provider = model_pb2.Provider.Value(f"PROVIDER_{provider.upper()}")
    for capability in can or ():
        if capability not in _CAPABILITIES:
            raise typer.BadParameter(f"expected {', '.join(_CAPABILITIES)}", param_hint="--can")
        setattr(model.capabilities, capability, True)
    model.upstream_model = upstream or model.upstream_model
    model.base_url = base_url or model.base_url
    with session.client() as client:
        made = client.models.CreateModel(model_pb2.CreateModelRequest(model=model)).model
    return session.print_json(made) if session.json else _show(session, made)


@app.command()
def enable(context: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """Let the group call a model (admins).

    Example: `coxswain models enable openai/gpt-5`
    """
    _set_enabled(session_of(context, as_json), name, enabled=True)


@app.command()
def disable(context: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """Keep the group from calling a model (admins).

    Example: `coxswain models disable openai/gpt-5`
    """
    _set_enabled(session_of(context, as_json), name, enabled=False)


@app.command("test")
def call_once(context: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """Call a model once with a few tokens, to see that address, name and credential are right. It is billed.

    Example: `coxswain models test openai/gpt-5`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        model = client.models.GetModel(model_pb2.GetModelRequest(name=name)).model
        begun = time.monotonic()
        if model.capabilities.embeddings and not model.capabilities.chat:
            embedded = client.inference.Embed(inference_pb2.EmbedRequest(model=name, texts=["ready?"]))
            said, usage = f"{len(embedded.embeddings[0].values)} dimensions", embedded.usage
        else:
            message = inference_pb2.Message(
                role=inference_pb2.MessageRole.MESSAGE_ROLE_USER,
                content=[inference_pb2.ContentPart(text="Answer with: ready")],
            )
            completion = inference_pb2.Completion(model=name, messages=[message])
            answer = client.inference.Complete(inference_pb2.CompleteRequest(completion=completion))
            said, usage = answer.text, answer.usage
        seconds = time.monotonic() - begun
    if session.json:
        return session.print_json({"model": name, "seconds": round(seconds, 3), "answer": said, "usage": usage})
    cost = f", ${usage.cost:.6f}" if usage.cost else ""
    return session.show(f"{name} answers in {seconds:.2f} s{cost}: {one_line(said)[:200]}")


@app.command()
def delete(
    context: typer.Context,
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a model of the group (admins). Asks first.

    Example: `coxswain models delete local/llama --yes`
    """
    session = session_of(context, as_json)
    confirm(session, f"the model {name}", "delete", yes=yes)
    with session.client() as client:
        client.models.DeleteModel(model_pb2.DeleteModelRequest(name=name))
    return session.print_json({"deleted": name}) if session.json else session.show(f"{name} deleted")


def _from_file(path: Path) -> model_pb2.Model:
    reader, model, root = message_reader.MessageReader(), model_pb2.Model(), documents.read_document(path)
    reader.fill(model, root, "")
    if reader.problems:
        raise documents.DocumentError(path, reader.problems)
    return model


def _set_enabled(session: Session, name: str, *, enabled: bool) -> None:
    with session.client() as client:
        model = client.models.SetModelEnabled(model_pb2.SetModelEnabledRequest(name=name, enabled=enabled)).model
    if session.json:
        return session.print_json(model)
    return session.show(f"{name} is {'enabled' if model.enabled else 'disabled'}")


def _show(session: Session, model: model_pb2.Model) -> None:
    session.out.print(_details_table(model, session.out.width))


def _listing(models: Iterable[model_pb2.Model]) -> Listing:
    made = Listing("name", "key", "enabled", "can", ">context", "provider", "what")
    for model in models:
        window = f"{model.context_window:,}" if model.context_window else ""
        usable = "yes" if model.enabled else "no"
        add_row(made, model.name, _key(model), usable, _can(model), window, _provider(model), model.description)
    return made


def _details_table(model: model_pb2.Model, width: int) -> Table:
    columns = ("what", "value", "from") if width >= _WIDTH_WITH_SOURCES else ("what", "value")
    made = table(*columns)
    made.columns[0].no_wrap = True
    for row in _details(model):
        add_row(made, *row[: len(columns)])
    return made


def _details(model: model_pb2.Model) -> list[tuple[str, str, str]]:
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


def _can(model: model_pb2.Model) -> str:
    return ", ".join(name for name in _CAPABILITIES if getattr(model.capabilities, name))


def _provider(model: model_pb2.Model) -> str:
    return model_pb2.Provider.Name(model.provider).removeprefix("PROVIDER_").lower()


def _key(model: model_pb2.Model) -> str:
    """Whether there is a credential, in few letters: it decides, and long names leave little of a line."""
    return _KEYS.get(_availability(model), "?")


def _credential(model: model_pb2.Model) -> str:
    return _CREDENTIALS.get(_availability(model), "unknown")


def _availability(model: model_pb2.Model) -> str:
    return model_pb2.CredentialAvailability.Name(model.credential).removeprefix("CREDENTIAL_AVAILABILITY_")
