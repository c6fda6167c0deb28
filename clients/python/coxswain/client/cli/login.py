"""Commands about installations: login, logout, context list, use, delete."""

import os
import sys
from dataclasses import replace
from typing import Annotated

import typer

from coxswain.client.cli.complete import complete_context
from coxswain.client.cli.contexts import Context, contexts_path, load_contexts, save_contexts
from coxswain.client.cli.global_options import GlobalOptions
from coxswain.client.cli.listing import Listing
from coxswain.client.cli.listing_group import ListingGroup
from coxswain.client.cli.session import JsonOption, Session, add_row, session_from, session_of
from coxswain.client.cli.system import who

app = typer.Typer(cls=ListingGroup, help="List, choose and delete the installations that you have logged in to.")

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the context.", autocompletion=complete_context)
]


def _name_of_address(address: str) -> str:
    host = address.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return host.rpartition(":")[0] or host or "local"


def login(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A name for the installation; by default its host.")] = "",
) -> None:
    """Remember an installation with your token, and use it from now on.

    The token is asked for, or read from standard input; `--token` or COXSWAIN_TOKEN give it too. It is tried before it
    is kept, in a file that only you can read, and never shown. Address, group, TLS and authorities are kept with it.

    Examples:

        coxswain login production --address https://example.com:443 --group sales

        coxswain login local --address 127.0.0.1:50051 --token dev:alice:sales=editor
    """
    given = context.find_root().obj
    assert isinstance(given, GlobalOptions)
    contexts = load_contexts()
    known = contexts.named.get(name)
    if not given.address and known:
        given = replace(given, address=known.address)
    given = replace(given, named_context=None, address=given.address or "127.0.0.1:50051")
    given.token = given.token or _ask_token()
    session = session_from(given)
    context.find_root().obj = session
    with session.client() as client:
        caller = client.whoami()
    name = name or _name_of_address(given.address or "")
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
    session.say(f"kept in {contexts_path()}; `coxswain logout {name}` forgets it", "dim")
    if "COXSWAIN_ADDRESS" in os.environ:
        session.say("COXSWAIN_ADDRESS is set and takes precedence; unset it, or give --context", "yellow")


def _ask_token() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Token", hide_input=True, err=True)).strip()
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
    session = Session()
    context.find_root().obj = session
    contexts = load_contexts()
    wanted = name or contexts.current
    if not wanted:
        return session.show("not logged in anywhere")
    contexts.named[wanted] = replace(contexts.get(wanted), token="")
    save_contexts(contexts)
    return session.show(f"{wanted}: logged out")


@app.command("list")
def list_contexts(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the installations you know, without their tokens.

    Example: `coxswain context list`
    """
    session = session_of(context, as_json)
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
    contexts = load_contexts()
    contexts.get(name)
    contexts.current = name
    save_contexts(contexts)
    session_of(context).show(f"using {name}")


@app.command()
def delete(context: typer.Context, name: NameArgument) -> None:
    """Forget an installation and its token.

    Example: `coxswain context delete local`
    """
    contexts = load_contexts()
    contexts.get(name)
    del contexts.named[name]
    contexts.current = "" if contexts.current == name else contexts.current
    save_contexts(contexts)
    session_of(context).show(f"{name} deleted")
