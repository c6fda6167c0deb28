"""Commands about who may act in the group: member list, set, remove, revoke."""

from __future__ import annotations

from typing import Annotated

import typer

from coxswain.client.cli.listing import Listing, When
from coxswain.client.cli.listing_group import ListingGroup
from coxswain.client.cli.roles import role_name, role_number
from coxswain.client.cli.session import JsonOption, add_row, confirm, session_of
from coxswain.client.later import access_change_pb2, group_pb2
from coxswain.client.paging import pages

app = typer.Typer(cls=ListingGroup, help="Say who may act in the group.")

SubjectArgument = Annotated[
    str, typer.Argument(metavar="SUBJECT", help="Issuer and subject joined by |, as `coxswain whoami` shows it.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command("list")
def list_members(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the members of the group, and who is invited.

    Example: `coxswain member list`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = list(pages(client.groups.ListMembers, group_pb2.ListMembersRequest(page_size=1000), "members"))
    if session.json:
        return session.print_json(found)
    made = Listing("subject", "role", "since")
    for member in found:
        role = role_name(member.role) + (" (invited)" if member.invited else "")
        add_row(made, member.subject, role, When(member.create_time))
    return session.out.print(made if found else "no stored members")


@app.command("set")
def set_member(
    context: typer.Context,
    subject: SubjectArgument,
    role: Annotated[str, typer.Argument(help="operator, editor or admin.")],
    as_json: JsonOption = False,
) -> None:
    """Invite somebody to the group, or change the role of a member (admins).

    Example: `coxswain member set "https://example.com|alice" editor`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        member = client.groups.SetMember(group_pb2.SetMemberRequest(subject=subject, role=role_number(role))).member
    if session.json:
        return session.print_json(member)
    return session.show(f"{subject} is {'invited as ' if member.invited else ''}{role_name(member.role)}")


@app.command()
def remove(
    context: typer.Context, subject: SubjectArgument, yes: YesOption = False, as_json: JsonOption = False
) -> None:
    """Remove a member, take an invitation back, or leave the group. Tokens for machines that they made end too.

    Example: `coxswain member remove "https://example.com|alice" --yes`
    """
    session = session_of(context, as_json)
    confirm(session, f"{subject} from the group", "remove", yes=yes)
    with session.client() as client:
        response = client.groups.RemoveMember(group_pb2.RemoveMemberRequest(subject=subject))
    if session.json:
        return session.print_json(response)
    tokens = response.ended_service_tokens
    return session.show(f"{subject} removed" + (f"; tokens they had made that ended: {tokens}" if tokens else ""))


@app.command()
def revoke(
    context: typer.Context,
    subject: SubjectArgument,
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="In all groups; needs platform administration.")
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """End at once what somebody has going: streams, executions, and credentials issued until now (admins).

    They may act again with a new sign-in, unless they are removed too.

    Example: `coxswain member revoke "https://example.com|alice" --yes`
    """
    session = session_of(context, as_json)
    confirm(session, f"what was issued to {subject} until now", "revoke", yes=yes)
    response: access_change_pb2.RevokeAccessResponse | access_change_pb2.RevokeAccessEverywhereResponse
    with session.client() as client:
        if everywhere:
            response = client.groups.RevokeAccessEverywhere(
                access_change_pb2.RevokeAccessEverywhereRequest(subject=subject)
            )
        else:
            response = client.groups.RevokeAccess(access_change_pb2.RevokeAccessRequest(subject=subject))
    if session.json:
        return session.print_json(response)
    where = "everywhere" if everywhere else "in the group"
    return session.show(
        f"revoked {where}; executions and schedules that lost their grant: {response.ended_grants}; "
        f"tokens they had made that ended: {response.ended_service_tokens}"
    )
