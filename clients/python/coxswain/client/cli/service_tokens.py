"""Commands about tokens for machines: tokens create, list, revoke."""

from __future__ import annotations

from typing import Annotated

import typer

from coxswain.client.cli.listing import Listing, When
from coxswain.client.cli.listing_group import ListingGroup
from coxswain.client.cli.roles import role_name, role_number
from coxswain.client.cli.session import JsonOption, add_row, confirm, session_of
from coxswain.client.cli.spans import span_from
from coxswain.client.later import duration_pb2, service_token_pb2
from coxswain.client.paging import pages

app = typer.Typer(
    cls=ListingGroup,
    help="Make tokens for machines that have no identity provider, such as build jobs.",
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits and -.")]


@app.command()
def create(
    context: typer.Context,
    name: NameArgument,
    role: Annotated[str, typer.Option(help="operator, editor or admin.")] = "operator",
    lifetime: Annotated[str, typer.Option("--for", help="Hours or days it is valid, for example 12h or 90d.")] = "90d",
    as_json: JsonOption = False,
) -> None:
    """Make a token and show it, this once (admins). It alone is printed to standard output.

    Example: `coxswain tokens create nightly-build --role operator --for 90d`
    """
    valid = duration_pb2.Duration()
    valid.FromTimedelta(span_from(lifetime, "--for"))
    request = service_token_pb2.CreateServiceTokenRequest(name=name, role=role_number(role), lifetime=valid)
    session = session_of(context, as_json)
    with session.client() as client:
        made = client.service_tokens.CreateServiceToken(request)
    if session.json:
        return session.print_json(made)
    session.show(made.token)
    return session.say(
        f"{name} acts as {made.service_token.subject} with the role {role_name(made.service_token.role)} until "
        f"{made.service_token.expire_time.ToDatetime():%Y-%m-%d %H:%M} UTC; the token cannot be shown again"
    )


@app.command("list")
def list_tokens(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the tokens of the group with role, end and last use, never the tokens themselves (admins).

    Example: `coxswain tokens list`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = list(
            pages(
                client.service_tokens.ListServiceTokens,
                service_token_pb2.ListServiceTokensRequest(page_size=1000),
                "service_tokens",
            )
        )
    if session.json:
        return session.print_json(found)
    made = Listing("name", "role", "made by", "until", "last used")
    for token in found:
        used = When(token.last_use_time) if token.HasField("last_use_time") else "never"
        add_row(made, token.name, role_name(token.role), token.created_by, When(token.expire_time), used)
    return session.out.print(made if found else "no tokens")


@app.command()
def revoke(
    context: typer.Context,
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """End a token at once, with what it has started (admins).

    Example: `coxswain tokens revoke nightly-build --yes`
    """
    session = session_of(context, as_json)
    confirm(session, f"the token {name} with the grants of what it has started", "revoke", yes=yes)
    with session.client() as client:
        response = client.service_tokens.RevokeServiceToken(service_token_pb2.RevokeServiceTokenRequest(name=name))
    return session.print_json(response) if session.json else session.show(f"{name} revoked")
