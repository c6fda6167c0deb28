"""Roles as people write them."""

from __future__ import annotations

import typer

from coxswain.client.later import access_pb2


def role_name(role: int) -> str:
    """A role as people write it. Example: "editor"."""
    return access_pb2.Role.Name(access_pb2.Role.ValueType(role)).removeprefix("ROLE_").lower()


def role_number(name: str) -> access_pb2.Role.ValueType:
    """The role that somebody wrote. Raises typer.BadParameter for what is no role of members."""
    if name not in {"operator", "editor", "admin"}:
        raise typer.BadParameter(f"{name!r} is no role: choose operator, editor or admin", param_hint="ROLE")
    return access_pb2.Role.Value(f"ROLE_{name.upper()}")
