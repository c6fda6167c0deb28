"""The command about models that answer in the place of others: fallbacks."""

from __future__ import annotations

from typing import Annotated

import typer

from coxswain.client.cli.session import JsonOption, add_row, session_of, table
from coxswain.client.later import field_mask_pb2, model_pb2

_OCCASIONS = {"on_outage": "outage", "on_context_window": "context window", "on_content_filter": "content filter"}


def fallbacks(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Name of a model of your group.")],
    on_outage: Annotated[
        list[str] | None,
        typer.Option(help="Model to ask when this one fails, is limited or has no quota left; repeat for more."),
    ] = None,
    on_context_window: Annotated[
        list[str] | None, typer.Option(help="Model to ask when the prompt is too long for this one; repeat for more.")
    ] = None,
    on_content_filter: Annotated[
        list[str] | None, typer.Option(help="Model to ask when a filter withholds the answer; repeat for more.")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Remove all of them first.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show or choose the models that answer when one cannot, in the order in which they are asked.

    Example: `coxswain fallbacks sales/chat --on-outage openai/gpt-5-mini --on-outage offline/extract`
    """
    session = session_of(context, as_json)
    given = {
        name: names
        for name, names in zip(_OCCASIONS, (on_outage, on_context_window, on_content_filter), strict=True)
        if names
    }
    with session.client() as client:
        if given or none:
            paths = ["fallbacks"] if none else [f"fallbacks.{name}" for name in given]
            request = model_pb2.UpdateModelRequest(
                name=model,
                model=model_pb2.Model(fallbacks=model_pb2.Fallbacks(**given)),
                update_mask=field_mask_pb2.FieldMask(paths=paths),
            )
            found = client.models.UpdateModel(request).model.fallbacks
        else:
            found = client.models.GetModel(model_pb2.GetModelRequest(name=model)).model.fallbacks
    if session.json:
        return session.print_json(found)
    made = table("on", "asked in this order")
    for name, words in _OCCASIONS.items():
        if names := getattr(found, name):
            add_row(made, words, ", ".join(names))
    if made.row_count:
        session.out.print(made)
    else:
        session.show("no fallbacks")
    return None
