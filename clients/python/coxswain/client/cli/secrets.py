"""Commands about the group's secrets: secret put, list, explain, delete. No command shows a stored value."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from coxswain.client.cli.listing import Listing, When
from coxswain.client.cli.listing_group import ListingGroup
from coxswain.client.cli.session import JsonOption, Session, add_row, confirm, one_line, session_of
from coxswain.client.cli.usage_errors import ReadsSecret
from coxswain.client.later import credential_pb2, errors, secret_pb2, tool_source_pb2
from coxswain.client.paging import pages
from coxswain.client.text_files import read_text

if TYPE_CHECKING:
    from coxswain.client.blocking import Client

app = typer.Typer(
    cls=ListingGroup,
    help="Keep what the group authenticates with: keys of models, secrets of tools.",
)

NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="tools/SOURCE, tools/search, tools/http/..., llm/PROVIDER, databricks/... or postgresql/...",
    ),
]
OriginsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--origin",
        help="Where it may be sent: scheme, host and port. Repeatable. For a secret that a source of tools "
        "names it is that of the source by default.",
    ),
]
_MAX_BYTES = 65536
_EXIT_FAILED = 1
_DATABRICKS = {
    "databricks/api-key": "Databricks: models, tools, memory",
    "databricks/pat": "Databricks Vector Search",
    "databricks/oauth-client": "Databricks as a service principal (JSON: client_id, client_secret)",
}


def use_of(name: str) -> str:
    """What a secret of this name is used for; empty if nothing uses it."""
    kind, slash, rest = name.partition("/")
    if kind == "tools" and slash:
        if rest == "search":
            return "web_search"
        return "http_request, in crews that name it" if rest.startswith("http/") else "sources of tools that name it"
    if kind == "llm" and slash:
        return f"models of {rest}"
    if kind == "postgresql" and slash:
        return "memory backends in PostgreSQL"
    return _DATABRICKS.get(name, "")


@app.command(cls=ReadsSecret)
def put(
    context: typer.Context,
    name: NameArgument,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="File with the value; - or none: standard input.")
    ] = None,
    origins: OriginsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store a secret, or replace its value. On a terminal it asks for the value and does not show it.

    The value is never an argument: others on this machine could read those. A line break at its end is left out.

    Examples:

        coxswain secret put tools/billing

        coxswain secret put tools/search --origin https://search.example.com < key.txt

        coxswain secret put llm/vertex_ai --file account.json --origin https://models.example.com
    """
    session = session_of(context, as_json)
    _check_origins(origins)
    if not use_of(name):
        # It may be the value, in the wrong place.
        session.say("warning: nothing uses a secret of this name; see `coxswain secret put --help`", "yellow")
    with session.client() as client:
        users = _users(client, name)
        allowed = origins or sorted({secret_origin(source.spec) for source in users} - {""})
        if not allowed:
            raise typer.BadParameter(
                "say where it may be sent, as in https://api.example.com; no source of tools names it yet",
                param_hint="--origin",
            )
        value = _value(name, file)
        request = secret_pb2.PutSecretRequest(name=name, value=value, allowed_origins=allowed)
        secret = client.secrets.PutSecret(request).secret
        if session.json:
            session.print_json(secret)
        else:
            used = ", ".join(source.spec.name for source in users) or use_of(name)
            session.show(
                f"{secret.name} stored for {', '.join(secret.allowed_origins)}; fingerprint {secret.fingerprint}"
                + (f"; used by {used}" if used else "")
            )
        for source in users:
            _list_again(session, client, source)


def _check_origins(origins: list[str] | None) -> None:
    """Raise typer.BadParameter for an address with a path in place of its origin."""
    for origin in origins or ():
        parts = urlsplit(origin)
        if parts.hostname and (parts.path.strip("/") or parts.query or parts.fragment):
            host = parts.netloc.rpartition("@")[2]
            raise typer.BadParameter(f"leave out the path: {parts.scheme}://{host}", param_hint="--origin")


def _list_again(session: Session, client: Client, source: tool_source_pb2.ToolSource) -> None:
    """List the tools of a source that could not be listed, perhaps for want of the secret."""
    if source.spec.disabled or not (source.problem or source.list_error):
        return
    try:
        count = client.tool_sources.RefreshToolSource(
            tool_source_pb2.RefreshToolSourceRequest(id=source.id)
        ).source.tool_count
        session.say(f"{source.spec.name} listed: {count} tools")
    except errors.CoxswainError as error:
        session.say(f"{source.spec.name} cannot be listed yet: {one_line(session.own(error.message))}", "yellow")


def _value(name: str, file: Path | None) -> str:
    """The secret, without the line break that editors and echo put behind it."""
    if file is None and sys.stdin.isatty():
        typed: str = typer.prompt(f"Value of {name}", hide_input=True, err=True)
        return typed
    return read_text(file or "-", _MAX_BYTES).text.removesuffix("\n").removesuffix("\r")


def _users(client: Client, name: str) -> list[tool_source_pb2.ToolSource]:
    """The sources of tools that name a secret."""
    try:
        sources = list(
            pages(
                client.tool_sources.ListToolSources, tool_source_pb2.ListToolSourcesRequest(page_size=1000), "sources"
            )
        )
    except errors.CoxswainError:
        # Auth may be served without the rest; then --origin is asked for.
        return []
    return [source for source in sources if secret_name(source.spec) == name]


def secret_origin(spec: tool_source_pb2.ToolSourceSpec) -> str:
    """The origin that a source sends its secret to; empty if it has none, or names no address for it."""
    address = spec.oauth_client.token_url if spec.WhichOneof("auth") == "oauth_client" else _address(spec)
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme and parts.netloc else ""


def secret_name(spec: tool_source_pb2.ToolSourceSpec) -> str:
    """The name of the secret that a source is authenticated with; empty if it needs none."""
    kind = spec.WhichOneof("auth")
    if kind == "secret":
        return spec.secret.secret_name
    return spec.oauth_client.secret_name if kind == "oauth_client" else ""


def _address(spec: tool_source_pb2.ToolSourceSpec) -> str:
    match spec.WhichOneof("kind"):
        case "mcp":
            return spec.mcp.url
        case "grpc":
            return f"https://{spec.grpc.address}"
        case "a2a":
            return f"https://{spec.a2a.address}"
        case "openapi":
            return spec.openapi.base_url
        case "http":
            return spec.http.base_url
        case _:
            return ""


@app.command("list")
def list_secrets(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the secrets of the group by name, with what each is used for; never their values.

    Example: `coxswain secret list`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        found = list(pages(client.secrets.ListSecrets, secret_pb2.ListSecretsRequest(page_size=1000), "secrets"))
    if session.json:
        return session.print_json(found)
    made = Listing("name", "used by", "may be sent to", "fingerprint", "stored")
    for secret in found:
        used = use_of(secret.name) or "nothing"
        add_row(
            made, secret.name, used, ", ".join(secret.allowed_origins), secret.fingerprint, When(secret.update_time)
        )
    session.out.print(made if found else "no secrets")
    return None


@app.command()
def explain(
    context: typer.Context, name: NameArgument, origins: OriginsOption = None, as_json: JsonOption = False
) -> None:
    """Say whether a credential would be found for you, where it was looked for, and how to correct that.

    It exits with 1 when there is none.

    Examples:

        coxswain secret explain tools/billing

        coxswain secret explain llm/openai
    """
    session = session_of(context, as_json)
    _check_origins(origins)
    with session.client() as client:
        users = _users(client, name) if name.startswith("tools/") and not origins else []
        known = origins or sorted({secret_origin(source.spec) for source in users} - {""})
        is_good = True
        for origin in known or [""]:
            found = client.auth.ExplainCredential(question_about(name, origin))
            is_good = is_good and found.resolvable
            if session.json:
                session.print_json(found)
                continue
            session.show(
                f"{name} for {origin or found.origin or 'any origin'}: {'found' if found.resolvable else 'none'}"
            )
            for link in found.links:
                outcome = (
                    credential_pb2.LinkOutcome.Name(link.outcome)
                    .removeprefix("LINK_OUTCOME_")
                    .lower()
                    .replace("_", " ")
                )
                session.show(f"  {link.link}: {outcome}: {one_line(session.own(link.detail))}")
    if not is_good:
        raise typer.Exit(_EXIT_FAILED)


def question_about(name: str, origin: str) -> credential_pb2.ExplainCredentialRequest:
    """Return the question for the credential that a secret's name stands for. Raises BadParameter for another name."""
    kind, _, rest = name.partition("/")
    if kind == "llm":
        purpose = credential_pb2.CredentialPurpose.CREDENTIAL_PURPOSE_LLM_PROVIDER
        return credential_pb2.ExplainCredentialRequest(purpose=purpose, provider=rest, destination_origin=origin)
    if kind == "databricks":
        purpose = (
            credential_pb2.CredentialPurpose.CREDENTIAL_PURPOSE_VECTOR_SEARCH
            if rest == "pat"
            else credential_pb2.CredentialPurpose.CREDENTIAL_PURPOSE_DATABRICKS
        )
        return credential_pb2.ExplainCredentialRequest(purpose=purpose, destination_origin=origin)
    if kind == "postgresql":
        purpose = credential_pb2.CredentialPurpose.CREDENTIAL_PURPOSE_POSTGRESQL
        return credential_pb2.ExplainCredentialRequest(purpose=purpose, secret_name=name, destination_origin=origin)
    if kind != "tools":
        raise typer.BadParameter("begins with tools/, llm/, databricks/ or postgresql/", param_hint="NAME")
    if not origin:
        raise typer.BadParameter("say where it would be sent; no source of tools names it", param_hint="--origin")
    purpose = credential_pb2.CredentialPurpose.CREDENTIAL_PURPOSE_TOOL
    return credential_pb2.ExplainCredentialRequest(purpose=purpose, secret_name=name, destination_origin=origin)


@app.command()
def delete(
    context: typer.Context,
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a secret. Asks first. What uses it cannot authenticate any more.

    Example: `coxswain secret delete tools/billing`
    """
    session = session_of(context)
    with session.client() as client:
        confirm(session, f"the secret {name}", "delete", yes=yes)
        client.secrets.DeleteSecret(secret_pb2.DeleteSecretRequest(name=name))
    session.show(f"{name} deleted")
