"""Commands about what the operator allows groups: limits show, limits set."""

import math
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.auth.v1.group_limits_pb2 import GetGroupLimitsRequest, GroupLimits, SetGroupLimitsRequest
from coxswain.client.cli.listing import Listing
from coxswain.client.cli.session import JsonOption, add_row, session_of

app = typer.Typer(no_args_is_help=True, help="What the operator allows groups.")

_FIELDS = GroupLimits.DESCRIPTOR.fields_by_name
# What fits into every field; the server knows how much of each it takes.
_MOST = 10**15


@app.command()
def show(
    context: typer.Context,
    group: Annotated[str, typer.Argument(help="Id of a group, for operators of the installation; empty: yours.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Show the limits of a group, where they come from, and how much is used of those that are counted in one place.

    Example: `coxswain limits show`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = client.groups.GetGroupLimits(GetGroupLimitsRequest(group_id=group))
    if session.json:
        return session.print_json(found)
    made = Listing("limit", ">allowed", ">used", "from")
    effective, used, chosen = _present(found.effective), _present(found.used), _present(found.set)
    for name in _FIELDS:
        add_row(made, name, _shown(effective, name, "unlimited"), _shown(used, name, ""), _origin(name in chosen))
    session.out.print(made)
    return None


@app.command(name="set")
def set_limits(
    context: typer.Context,
    group: Annotated[str, typer.Argument(help="Id of the group.")],
    limits: Annotated[
        list[str], typer.Argument(help="LIMIT=NUMBER; 0 allows nothing, or unlimited, or default instead of a number.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Change limits of a group, as an operator of the installation; `limits show` lists their names.

    Examples:

        coxswain limits set GROUP calls_per_minute=600 max_open_executions=50

        coxswain limits set GROUP calls_per_minute=default max_crews=unlimited
    """
    session = session_of(context, as_json)
    changes: dict[str, float | None] = dict(_change(text) for text in limits)
    given = GroupLimits()
    for name, value in changes.items():
        if value is not None:
            setattr(given, name, value if _is_amount(name) else int(value))
    request = SetGroupLimitsRequest(group_id=group, limits=given, update_mask=FieldMask(paths=list(changes)))
    with session.client() as client:
        changed = client.groups.SetGroupLimits(request)
    if session.json:
        return session.print_json(changed)
    effective, chosen = _present(changed.effective), _present(changed.set)
    for name in changes:
        session.show(f"{name}: {_shown(effective, name, 'unlimited')} ({_origin(name in chosen)})")
    return None


def _present(limits: GroupLimits) -> dict[str, float]:
    return {field.name: value for field, value in limits.ListFields()}


def _shown(limits: dict[str, float], name: str, absent: str) -> str:
    return f"{limits[name]:,.15g}" if name in limits else absent


def _origin(chosen: bool) -> str:
    return "set for the group" if chosen else "default"


def _is_amount(name: str) -> bool:
    """Whether a limit may be a fraction."""
    return _FIELDS[name].type == _FIELDS[name].TYPE_DOUBLE


def _change(text: str) -> tuple[str, float | None]:
    name, _, value = text.partition("=")
    if name not in _FIELDS:
        raise typer.BadParameter(f'"{name}" is not a limit; choose from {", ".join(_FIELDS)}', param_hint="LIMITS")
    if value == "default":
        return name, None
    if value == "unlimited":
        return name, -1
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number <= _MOST or not (_is_amount(name) or number.is_integer()):
        raise typer.BadParameter(
            f'{name} takes a number from 0 to {_MOST:,}, unlimited, or default, not "{value}"', param_hint="LIMITS"
        )
    return name, number
