"""The command ``coxswain``: its options, and how it ends.

Help and completion cost what this module imports: no command, no gRPC.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer._click.exceptions import NoArgsIsHelpError

from coxswain.client.cli.command_tree import CommandTree
from coxswain.client.cli.complete import complete_context, complete_group
from coxswain.client.cli.global_options import GlobalOptions
from coxswain.client.version import VERSION

EXIT_UNEXPECTED = 70


class _Coxswain(CommandTree):
    """Ends with an exit code and an error message, never with a traceback."""

    _as_json = False

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        # A line that cannot be parsed says nothing else of its options.
        self._as_json = "--json" in (args[: args.index("--")] if "--" in args else args)
        return self._ending(lambda: super(_Coxswain, self).make_context(info_name, args, parent, **extra), lambda: None)

    def invoke(self, ctx: Any) -> Any:
        return self._ending(lambda: super(_Coxswain, self).invoke(ctx), lambda: ctx.obj)

    def _ending(self, act: Callable[[], Any], state: Callable[[], object]) -> Any:
        try:
            return act()
        except (typer.Exit, typer.Abort, NoArgsIsHelpError):
            raise
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - what it does not know it raises again
            from coxswain.client.cli.failures import end_of

            raise typer.Exit(end_of(error, state(), as_json=self._as_json)) from None


app = typer.Typer(
    name="coxswain",
    cls=_Coxswain,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"coxswain {VERSION}\n")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    address: Annotated[
        str | None,
        typer.Option(
            envvar="COXSWAIN_ADDRESS",
            help="host:port of the server, by default 127.0.0.1:50051; https:// before it means TLS. "
            "Several: auth=host:port,memory=...,models=...,orchestrator=...",
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="COXSWAIN_TOKEN", show_envvar=True, help="Bearer token, for example dev:alice:sales=editor."
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            envvar="COXSWAIN_GROUP", help="Group to act in, for members of several.", autocompletion=complete_group
        ),
    ] = None,
    named_context: Annotated[
        str | None,
        typer.Option(
            "--context",
            envvar="COXSWAIN_CONTEXT",
            help="An installation that you have logged in to, instead of the one in use.",
            autocompletion=complete_context,
        ),
    ] = None,
    tls: Annotated[bool | None, typer.Option("--tls", envvar="COXSWAIN_TLS", help="Encrypt the connection.")] = None,
    ca_file: Annotated[
        Path | None, typer.Option(envvar="COXSWAIN_CA_FILE", help="PEM of the authorities to trust; means TLS.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(min=0.1, help="Seconds a call may take, by default 30.")] = None,
    as_json: Annotated[bool | None, typer.Option("--json", help="Print JSON instead of text.")] = None,
    wide: Annotated[
        bool | None,
        typer.Option("--wide", help="Print lists and long texts whole, also where the terminal is too narrow."),
    ] = None,
    raw: Annotated[
        bool | None, typer.Option("--raw", help="Print results as they are, control characters included.")
    ] = None,
    version: Annotated[  # noqa: ARG001 - its callback prints it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Run AI crews, watch their executions, and search their memories.

    First steps, with a server running (`coxswain up`):

        coxswain status

        coxswain apply -f examples/brief/crew.yaml

        coxswain run brief --input text=@examples/brief/text.txt

        coxswain memory search "who kept the light" --crew brief

    The options below may stand before a command or behind it.

    Exit codes: 0 success, 1 the command ran without the result asked for (an execution failed, a check found
    faults), 2 wrong usage or file, 10 + n a call failed with gRPC status n, 70 a fault of this program, 130
    interrupted.
    """
    context.obj = GlobalOptions(address, token, group, tls, ca_file, timeout, as_json, raw, named_context, wide)


def main() -> None:
    """Run the command line and end the process."""
    # What the library of gRPC writes by itself says less than the errors do.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        app(prog_name="coxswain")
    except Exception as error:
        if os.environ.get("COXSWAIN_DEBUG"):
            raise
        from coxswain.client.cli.session import Session

        session = Session(json="--json" in sys.argv)
        session.fail(f"unexpected {type(error).__name__}: {error}; COXSWAIN_DEBUG=1 shows the traceback")
        sys.exit(EXIT_UNEXPECTED)
