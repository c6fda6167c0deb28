"""The command ``coxswain``: its options, its commands, and how it ends."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from typer.core import TyperGroup

from coxswain.client.cli import (
    answers,
    artifacts,
    ask,
    batches,
    continuing,
    crews,
    doctor,
    events,
    executions,
    fallbacks,
    group_limits,
    members,
    memory,
    models,
    questions,
    retention,
    run,
    schedules,
    secrets,
    service_tokens,
    system,
    tools,
    usage,
)
from coxswain.client.cli.remedies import remedy_for
from coxswain.client.cli.session import (
    EXIT_INTERRUPTED,
    EXIT_NOT_SUCCEEDED,
    EXIT_STATUS,
    EXIT_UNEXPECTED,
    EXIT_USAGE,
    Session,
    connection_from,
    debugging,
    problem_table,
)
from coxswain.client.cli.words import field_in_own_words
from coxswain.client.connection import DEFAULT_ADDRESS
from coxswain.client.documents import DocumentError, Problem
from coxswain.client.errors import CoxswainError
from coxswain.client.results import ExecutionNotSucceeded
from coxswain.client.text_files import TextFileError


class _Group(TyperGroup):
    """Ends with an exit code and an error message, never with a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            # The reader has closed the pipe; there is nothing left to flush to.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(EXIT_USAGE) from None
        except (CoxswainError, ExecutionNotSucceeded, DocumentError, TextFileError, OSError, ValueError) as error:
            if debugging():
                raise
            raise typer.Exit(_report(ctx.obj or Session(), error)) from None


app = typer.Typer(
    name="coxswain",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)


@app.callback()
def options(
    context: typer.Context,
    address: Annotated[
        str, typer.Option(envvar="COXSWAIN_ADDRESS", help="host:port of the server; https:// before it means TLS.")
    ] = DEFAULT_ADDRESS,
    token: Annotated[
        str,
        typer.Option(
            envvar="COXSWAIN_TOKEN", show_envvar=True, help="Bearer token, for example dev:alice:sales=editor."
        ),
    ] = "",
    group: Annotated[str, typer.Option(envvar="COXSWAIN_GROUP", help="Group to act in, for members of several.")] = "",
    tls: Annotated[bool, typer.Option("--tls", envvar="COXSWAIN_TLS", help="Encrypt the connection.")] = False,
    ca_file: Annotated[
        Path | None, typer.Option(envvar="COXSWAIN_CA_FILE", help="PEM of the authorities to trust; means TLS.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds a call may take.")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Print results as they are, control characters included.")] = False,
) -> None:
    """Run AI crews, watch their executions, and search their memories.

    First steps, with a server running (`coxswain up`):

        coxswain status

        coxswain apply -f examples/brief/crew.yaml

        coxswain run brief --input text=@examples/brief/text.txt

        coxswain memory search "who kept the light" --crew brief

    Exit codes: 0 success, 1 the execution did not succeed, 2 wrong usage or file, 10 + n a call failed with gRPC
    status n, 130 interrupted.
    """
    context.obj = Session(connection_from(address, token, group, tls, ca_file, timeout), as_json, raw)


def _report(session: Session, error: Exception) -> int:
    """Print the error and what to do about it; return the exit code."""
    match error:
        case DocumentError():
            own = [replace(problem, description=session.own(problem.description)) for problem in error.problems]
            session.err.print(problem_table(own, f"{error.path} is not valid"))
            return EXIT_USAGE
        case ExecutionNotSucceeded():
            session.say(str(error), "red")
            return EXIT_NOT_SUCCEEDED
        case CoxswainError():
            _report_call(session, error)
            return EXIT_STATUS + int(error.code.value[0])
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            session.say(f"error: {where}{error.strerror or error}", "red")
            return EXIT_USAGE
        case _:
            session.say(f"error: {error}", "red")
            return EXIT_USAGE


def _report_call(session: Session, error: CoxswainError) -> None:
    reason = f", {error.reason}" if error.reason not in {"", error.code.name} else ""
    unnamed = [violation for violation in error.violations if violation.description not in error.message]
    # The parts of a crew have no options.
    own = session.options if error.reason != "CREW_INVALID" else {}
    fields = {violation.field: field_in_own_words(violation.field, own) for violation in error.violations}
    # The texts of gRPC itself about a lost connection or an unknown method are for its developers.
    message = error.message
    if not error.reason and error.code is grpc.StatusCode.UNAVAILABLE:
        message = f"{session.connection.target} cannot be reached"
    elif not error.reason and error.code is grpc.StatusCode.UNIMPLEMENTED:
        message = f"{session.connection.target} does not serve this"
    for path in sorted(fields, key=len, reverse=True):
        message = message.replace(f"{path}: ", f"{fields[path]}: ")
    session.say(f"error: {session.own(message)} ({error.code.name}{reason})", "red")
    if unnamed:
        faults = [Problem(fields[violation.field], session.own(violation.description)) for violation in unnamed]
        session.err.print(problem_table(faults))
    if error.retry_after is not None:
        session.say(f"try again in {error.retry_after:g} s")
    if remedy := remedy_for(error):
        session.say(remedy)
    if error.request_id:
        session.say(f"request id {error.request_id}", "dim")


system.register(app)
doctor.register(app)
models.register(app)
fallbacks.register(app)
ask.register(app)
crews.register(app)
run.register(app)
continuing.register(app)
executions.register(app)
events.register(app)
questions.register(app)
answers.register(app)
retention.register(app)
usage.register(app)
app.add_typer(artifacts.app, name="artifact")
app.add_typer(batches.app, name="batch")
app.add_typer(schedules.app, name="schedule")
app.add_typer(memory.app, name="memory")
app.add_typer(tools.app, name="tool")
app.add_typer(secrets.app, name="secret")
app.add_typer(group_limits.app, name="limits")
app.add_typer(members.app, name="member")
app.add_typer(service_tokens.app, name="tokens")


def main() -> None:
    """Run the command line and end the process."""
    try:
        app(prog_name="coxswain")
    except Exception as error:
        if debugging():
            raise
        Session().say(f"error: unexpected {type(error).__name__}: {error}; COXSWAIN_DEBUG=1 shows the traceback", "red")
        sys.exit(EXIT_UNEXPECTED)
