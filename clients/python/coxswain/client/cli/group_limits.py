"""Commands about what groups may do and have: limits show, limits set, limits lower."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer._click.exceptions import NoSuchOption
from typer.core import TyperCommand

from coxswain.client.cli.listing import Listing
from coxswain.client.cli.session import JsonOption, add_row, session_of
from coxswain.client.cli.usage_errors import as_assignment
from coxswain.client.later import field_mask_pb2, group_limits_pb2

if TYPE_CHECKING:
    from google.protobuf.descriptor import FieldDescriptor

app = typer.Typer(no_args_is_help=True, help="What groups may do and have.")

LOWERED = "lowered by the group's admins"


class _TakesLimits(TyperCommand):
    """Says how a limit is written to who wrote it as an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except NoSuchOption as error:
            raise as_assignment(error, _fields()) from None


# What fits into every field; the server knows how much of each it takes.
_MOST = 10**15


@app.command()
def show(
    context: typer.Context,
    group: Annotated[str, typer.Argument(help="Id of a group, for platform admins; empty: yours.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Show the limits of a group, where they come from, and how much is used of those that are counted in one place.

    Example: `coxswain limits show`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = client.groups.GetGroupLimits(group_limits_pb2.GetGroupLimitsRequest(group_id=group))
    if session.json:
        return session.print_json(found)
    made = Listing("limit", ">allowed", ">used", "from")
    effective, used = _present(found.effective), _present(found.used)
    for name in _fields():
        add_row(made, name, _shown(effective, name, "unlimited"), _shown(used, name, ""), limit_origin(found, name))
    session.out.print(made)
    return None


@app.command(name="set", cls=_TakesLimits)
def set_limits(
    context: typer.Context,
    group: Annotated[str, typer.Argument(help="Id of the group.")],
    limits: Annotated[
        list[str] | None,
        typer.Argument(help="LIMIT=NUMBER; 0 allows nothing, or unlimited, or default instead of a number."),
    ] = None,
    clear_lowered: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIMIT", help="Undo what the group's admins have lowered of a limit; several times for more."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Change limits of a group, as a platform admin; `limits show` lists their names.

    Examples:

        coxswain limits set GROUP calls_per_minute=600 max_open_executions=50

        coxswain limits set GROUP calls_per_minute=default max_crews=unlimited

        coxswain limits set GROUP --clear-lowered calls_per_minute
    """
    if not limits and not clear_lowered:
        raise typer.BadParameter("name at least one, or use --clear-lowered", param_hint="LIMITS")
    session = session_of(context, as_json)
    changes: dict[str, float | None] = dict(_change(text) for text in limits or ())
    cleared = [_known(name, "--clear-lowered") for name in clear_lowered or ()]
    request = group_limits_pb2.SetGroupLimitsRequest(
        group_id=group,
        limits=_given(changes),
        update_mask=field_mask_pb2.FieldMask(paths=list(changes)),
        clear_lowered=field_mask_pb2.FieldMask(paths=cleared),
    )
    with session.client() as client:
        changed = client.groups.SetGroupLimits(request)
    if session.json:
        return session.print_json(changed)
    effective = _present(changed.effective)
    for name in dict.fromkeys((*changes, *cleared)):
        session.show(f"{name}: {_shown(effective, name, 'unlimited')} ({limit_origin(changed, name)})")
    return None


@app.command(cls=_TakesLimits)
def lower(
    context: typer.Context,
    limits: Annotated[
        list[str],
        typer.Argument(help="LIMIT=NUMBER; default instead of a number undoes what was lowered."),
    ],
    as_json: JsonOption = False,
) -> None:
    """Lower limits of your own group below the operator's, as an admin of it, or undo that.

    Examples:

        coxswain limits lower max_crews=20 max_open_executions=5

        coxswain limits lower max_crews=default
    """
    session = session_of(context, as_json)
    changes: dict[str, float | None] = dict(_change(text) for text in limits)
    request = group_limits_pb2.LowerGroupLimitsRequest(
        limits=_given(changes), update_mask=field_mask_pb2.FieldMask(paths=list(changes))
    )
    with session.client() as client:
        changed = client.groups.LowerGroupLimits(request)
    if session.json:
        return session.print_json(changed)
    effective, lowered = _present(changed.effective), _present(changed.lowered)
    for name in changes:
        origin = LOWERED if name in lowered else "the operator's limit"
        session.show(f"{name}: {_shown(effective, name, 'unlimited')} ({origin})")
    return None


def _given(changes: dict[str, float | None]) -> group_limits_pb2.GroupLimits:
    """Return the limits that are given a number."""
    given = group_limits_pb2.GroupLimits()
    for name, value in changes.items():
        if value is not None:
            setattr(given, name, value if _is_amount(name) else int(value))
    return given


def _present(limits: group_limits_pb2.GroupLimits) -> dict[str, float]:
    return {field.name: value for field, value in limits.ListFields()}


def _shown(limits: dict[str, float], name: str, absent: str) -> str:
    return f"{limits[name]:,.15g}" if name in limits else absent


def limit_origin(
    found: group_limits_pb2.GetGroupLimitsResponse | group_limits_pb2.SetGroupLimitsResponse, name: str
) -> str:
    """Return whose limit the one is that counts."""
    lowered = _present(found.lowered).get(name)
    # One that counts is below the operator's, or as large.
    if lowered is not None and lowered == _present(found.effective).get(name):
        return LOWERED
    return "set for the group" if name in _present(found.set) else "default"


def _is_amount(name: str) -> bool:
    """Whether a limit may be a fraction."""
    return _fields()[name].type == _fields()[name].TYPE_DOUBLE


def _known(name: str, where: str) -> str:
    if name not in _fields():
        raise typer.BadParameter(f'"{name}" is not a limit; choose from {", ".join(_fields())}', param_hint=where)
    return name


def _change(text: str) -> tuple[str, float | None]:
    name, _, value = text.partition("=")
    _known(name, "LIMITS")
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


def _fields() -> Mapping[str, FieldDescriptor]:
    """The limits that there are, by their names."""
    return group_limits_pb2.GroupLimits.DESCRIPTOR.fields_by_name
