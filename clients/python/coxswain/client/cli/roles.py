"""Roles as people write them."""

import typer

from coxswain.common.v1.access_pb2 import Role


def role_name(role: int) -> str:
    """A role as people write it. Example: "editor"."""
    return Role.Name(Role.ValueType(role)).removeprefix("ROLE_").lower()


def role_number(name: str) -> Role.ValueType:
    """The role that somebody wrote. Raises typer.BadParameter for what is no role of members."""
    if name not in {"operator", "editor", "admin"}:
        raise typer.BadParameter(f"{name!r} is no role: choose operator, editor or admin", param_hint="ROLE")
    return Role.Value(f"ROLE_{name.upper()}")
