"""Commands about installations: login, logout, context list, use, delete."""

import os
import re
import shlex
import sys
from dataclasses import replace
from typing import Annotated

import typer

from coxswain.client.cli.complete import complete_context
from coxswain.client.cli.contexts import (
    Context,
    Contexts,
    contexts_path,
    load_contexts,
    save_contexts,
    with_context,
)
from coxswain.client.cli.global_options import GlobalOptions
from coxswain.client.cli.listing import Listing
from coxswain.client.cli.listing_group import ListingGroup
from coxswain.client.cli.session import JsonOption, Session, add_row, session_from, session_of
from coxswain.client.cli.system import who
from coxswain.client.cli.usage_errors import ReadsToken
from coxswain.client.connection import DEFAULT_ADDRESS

app = typer.Typer(cls=ListingGroup, help="List, choose and delete the installations that you have logged in to.")

# Holds no token: they have a colon or are longer.
_NAME = re.compile(r"[\w.-]{1,40}")

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the context.", autocompletion=complete_context)
]


def _name_of_address(address: str) -> str:
    host = address.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return host.rpartition(":")[0] or host or "local"


def login(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A name for the installation; see below for the default.")] = "",
) -> None:
    """Remember an installation with your token, and use it from now on.

    The token is asked for, or read from standard input; `--token` or COXSWAIN_TOKEN give it too. It is tried before it
    is kept, in a file that only you can read, and never shown. Address, group, TLS and authorities are kept with it,
    and need not be given again. Without a name it is the context in use, or with --address one named after its host.

    Examples:

        coxswain login production --address https://example.com:443 --group sales

        coxswain login local --address 127.0.0.1:50051 --token dev:alice:sales=editor
    """
    given = context.find_root().obj
    assert isinstance(given, GlobalOptions)
    contexts = load_contexts()
    if name and name not in contexts.named and not _NAME.fullmatch(name):
        # It may be a token, in the wrong place.
        raise typer.BadParameter(f"takes up to 40 letters, digits and . _ -; {ReadsToken.read_from}", param_hint="NAME")
    name, given = _resolved(given, name, contexts)
    given.token = given.token or _ask_token(f"{name} at {given.address}")
    session = session_from(given)
    context.find_root().obj = session
    with session.client() as client:
        caller = client.whoami()
    contexts.named[name] = Context(
        address=given.address or "",
        token=given.token,
        group=given.group or "",
        tls=bool(given.tls),
        ca_file=str(given.ca_file.absolute()) if given.ca_file else "",
    )
    contexts.current = name
    save_contexts(contexts)
    session.show(f"{name}: you are {who(caller)}")
    if not (caller.principal.group_id or caller.principal.platform_admin or caller.groups or caller.invitations):
        session.say(
            "warning: nothing can be done with this token: it is in no group; ask an admin of one to add you with "
            f"`coxswain member set {shlex.quote(caller.principal.subject)} operator`",
            "yellow",
        )
    session.say(f"kept in {contexts_path()}; `coxswain logout {name}` forgets it", "dim")
    _warn_of_precedence(session, name)


def _resolved(given: GlobalOptions, name: str, contexts: Contexts) -> tuple[str, GlobalOptions]:
    """The name of the context to log in to, and the options with what is known of it except for its token.

    Only an address that is given together with a name moves that context. Raises ValueError for an address that is
    given together with a context at another one.
    """
    wanted = name or given.named_context or ("" if given.address else contexts.current)
    known = contexts.named.get(wanted)
    if known and given.address == os.environ.get("COXSWAIN_ADDRESS"):
        given = replace(given, address=known.address)
    address = given.address or DEFAULT_ADDRESS
    wanted = wanted or _name_of_address(address)
    known = contexts.named.get(wanted)
    if known and (known.address == address or (given.named_context and not name)):
        token = given.token
        given = replace(with_context(replace(given, named_context=wanted)), token=token)
    return wanted, replace(given, named_context=None, address=address)


def _warn_of_precedence(session: Session, name: str) -> None:
    """Say which variable of the environment takes the place of the context in use."""
    if context := os.environ.get("COXSWAIN_CONTEXT"):
        if context != name:
            session.say(
                f"COXSWAIN_CONTEXT={context} is set and takes precedence; unset it, or give --context", "yellow"
            )
    elif "COXSWAIN_ADDRESS" in os.environ:
        session.say("COXSWAIN_ADDRESS is set and takes precedence; unset it, or give --context", "yellow")


def _ask_token(installation: str) -> str:
    if sys.stdin.isatty():
        return str(typer.prompt(f"Token for {installation}", hide_input=True, err=True)).strip()
    token = sys.stdin.readline().strip()
    if not token:
        raise typer.BadParameter("give it on standard input, or with COXSWAIN_TOKEN", param_hint="--token")
    return token


def logout(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="Name of the context; by default the one in use.", autocompletion=complete_context)
    ] = "",
) -> None:
    """Forget the token of an installation. Its address stays known.

    Example: `coxswain logout production`
    """
    given = context.find_root().obj
    assert isinstance(given, GlobalOptions)
    session = _session_without_context(context)
    contexts = load_contexts()
    wanted = name or given.named_context or contexts.current
    if not wanted:
        return session.show("not logged in anywhere")
    contexts.named[wanted] = replace(contexts.get(wanted), token="")
    save_contexts(contexts)
    return session.show(f"{wanted}: logged out")


def _session_without_context(context: typer.Context, as_json: bool = False) -> Session:
    """A session for commands that also have to work while the context in use cannot be used."""
    root = context.find_root()
    if isinstance(root.obj, GlobalOptions):
        root.obj = replace(root.obj, address=DEFAULT_ADDRESS, named_context=None, ca_file=None)
    return session_of(context, as_json)


@app.command("list")
def list_contexts(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the installations you know, without their tokens.

    Example: `coxswain context list`
    """
    session = _session_without_context(context, as_json)
    contexts = load_contexts()
    if session.json:
        shown = [
            {
                "name": name,
                "current": name == contexts.current,
                "address": one.address,
                "group": one.group,
                "token": "kept" if one.token else "none",
            }
            for name, one in contexts.named.items()
        ]
        return session.print_json(shown)
    made = Listing("", "name", "address", "group", "token")
    for name, one in contexts.named.items():
        mark, kept = "*" if name == contexts.current else "", "kept" if one.token else "none"
        add_row(made, mark, name, one.address, one.group, kept)
    return session.out.print(made if contexts.named else "no contexts; `coxswain login` makes one")


@app.command()
def use(context: typer.Context, name: NameArgument) -> None:
    """Use an installation from now on.

    Example: `coxswain context use local`
    """
    session = _session_without_context(context)
    contexts = load_contexts()
    contexts.get(name)
    contexts.current = name
    save_contexts(contexts)
    session.show(f"using {name}")
    _warn_of_precedence(session, name)


@app.command()
def delete(context: typer.Context, name: NameArgument) -> None:
    """Forget an installation and its token.

    Example: `coxswain context delete local`
    """
    session = _session_without_context(context)
    contexts = load_contexts()
    contexts.get(name)
    del contexts.named[name]
    contexts.current = "" if contexts.current == name else contexts.current
    save_contexts(contexts)
    session.show(f"{name} deleted")
