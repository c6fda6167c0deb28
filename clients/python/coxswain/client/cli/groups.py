"""Commands about the groups of an installation: groups list, create, delete."""

from __future__ import annotations

from typing import Annotated

import typer

from coxswain.client.cli.listing import Listing, When
from coxswain.client.cli.listing_group import ListingGroup
from coxswain.client.cli.session import JsonOption, add_row, confirm, session_of
from coxswain.client.later import group_pb2
from coxswain.client.paging import pages

app = typer.Typer(cls=ListingGroup, help="List, create and delete groups (platform admins).")


@app.command("list")
def list_groups(context: typer.Context, as_json: JsonOption = False) -> None:
    """List all groups of the installation (platform admins); `coxswain whoami` lists your own.

    Example: `coxswain groups list`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = list(pages(client.groups.ListGroups, group_pb2.ListGroupsRequest(page_size=1000), "groups"))
    if session.json:
        return session.print_json(found)
    made = Listing("id", "name", "created")
    for group in found:
        add_row(made, group.id, group.display_name, When(group.create_time))
    return session.out.print(made if found else "no stored groups")


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A name for people; several groups may share one.")],
    admin: Annotated[str, typer.Option(help="Issuer and subject of its first admin, such as dev|alice.")],
    request_id: Annotated[
        str, typer.Option(help="Any text of your own; a repetition with the same one returns the same group.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Create a group and its first admin (platform admins).

    Example: `coxswain groups create Sales --admin "https://example.com|alice"`
    """
    session = session_of(context, as_json)
    request = group_pb2.CreateGroupRequest(display_name=name, admin_subject=admin, request_id=request_id)
    with session.client() as client:
        group = client.groups.CreateGroup(request).group
    if session.json:
        return session.print_json(group)
    return session.show(group.id)


@app.command()
def delete(
    context: typer.Context,
    id: Annotated[str, typer.Argument(metavar="ID", help="The group's id.")],  # noqa: A002 - what people see
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete a group with its memberships (platform admins). Asks first.

    Example: `coxswain groups delete 01a20694-1f86-7c54-8594-1ba930202397`
    """
    session = session_of(context, as_json)
    confirm(session, f"the group {id}, for all its members", "delete", yes=yes)
    with session.client() as client:
        client.groups.DeleteGroup(group_pb2.DeleteGroupRequest(id=id, confirm_id=id))
    if session.json:
        return session.print_json({"deleted": id})
    return session.show(f"{id} deleted")
