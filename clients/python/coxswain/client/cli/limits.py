"""Options that limit what an execution may use."""

from __future__ import annotations

from typing import Annotated

import typer

from coxswain.client.later import crew_pb2

MaxCostOption = Annotated[
    float | None, typer.Option(help="Most US dollars for model calls. Every model of the crew has to have a price.")
]
MaxTokensOption = Annotated[int | None, typer.Option(min=1, help="Most tokens in prompts and answers together.")]
MaxModelCallsOption = Annotated[int | None, typer.Option(min=1, help="Most calls of models.")]
MaxToolCallsOption = Annotated[int | None, typer.Option(min=1, help="Most calls of tools.")]


def limits_from(
    max_cost: float | None, max_tokens: int | None, max_model_calls: int | None, max_tool_calls: int | None
) -> crew_pb2.ExecutionLimits | None:
    """The limits of the options; None when none is given."""
    limits = crew_pb2.ExecutionLimits(
        max_cost=max_cost, max_tokens=max_tokens, max_model_calls=max_model_calls, max_tool_calls=max_tool_calls
    )
    return limits if limits.ListFields() else None


def limits_text(limits: crew_pb2.ExecutionLimits) -> str:
    """What an execution may use at most, for people; empty when nothing is limited."""
    parts = []
    if limits.HasField("max_cost"):
        parts.append(f"${limits.max_cost:,.6g}")
    if limits.HasField("max_tokens"):
        parts.append(f"{limits.max_tokens:,} tokens")
    if limits.HasField("max_model_calls"):
        parts.append(f"{limits.max_model_calls:,} model calls")
    if limits.HasField("max_tool_calls"):
        parts.append(f"{limits.max_tool_calls:,} tool calls")
    return ", ".join(parts)
