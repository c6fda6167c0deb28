"""What every command shares: the connection, the consoles, tables and exit codes."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from coxswain.client.cli.contexts import with_context
from coxswain.client.cli.global_options import GlobalOptions
from coxswain.client.cli.listing import WHOLE_WIDTH, Listing, When
from coxswain.client.cli.words import in_own_words, options_of
from coxswain.client.connection import DEFAULT_ADDRESS, DEFAULT_TIMEOUT, Connection, Tls

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text

    from coxswain.client.blocking import Client
    from coxswain.client.documents import Problem

EXIT_NOT_SUCCEEDED = 1
EXIT_USAGE = 2
EXIT_STATUS = 10
"""Added to the number of a gRPC status code: NOT_FOUND (5) ends with 15."""
EXIT_INTERRUPTED = 130

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


# Controls of terminals, and those that turn the direction of what follows.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_WHOLE = frozenset({"id", "name", "memory id", "service", "state", "line", "field", "zone", "last execution"})


def _console(*, stderr: bool, wide: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr)
    return console if console.is_terminal and not wide else Console(stderr=stderr, width=WHOLE_WIDTH)


@dataclass
class Session:
    """The global options, and the consoles."""

    connection: Connection = field(default_factory=Connection)
    json: bool = False
    """Whether results are printed as JSON, and errors too."""
    raw: bool = False
    """Whether results are printed as they are, control characters included."""
    out: Console = field(default_factory=lambda: _console(stderr=False))
    err: Console = field(default_factory=lambda: _console(stderr=True))
    wide: bool = False
    """Whether lists and texts are printed whole."""
    options: dict[str, str] = field(default_factory=dict)
    """What people type for the parameters of the command that runs; see `words`."""

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client that is closed at the end."""
        # Help and completion need no gRPC.
        from coxswain.client.blocking import Client

        options = self.connection
        with Client(
            options.address, token=options.token, group=options.group, tls=options.tls, timeout=options.timeout
        ) as client:
            yield client

    def print_json(self, value: object, *, to_errors: bool = False) -> None:
        """One line of JSON on standard output or standard error, with control characters escaped."""
        stream = sys.stderr if to_errors else sys.stdout
        line = json.dumps(plain(value), ensure_ascii=False)
        stream.write(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", line) + "\n")
        stream.flush()

    def say(self, text: str, style: str = "") -> None:
        """Print a message on standard error; standard output is for results."""
        self.err.print(styled(harmless(text), style), soft_wrap=True)

    def fail(self, text: str, **details: object) -> None:
        """Print why the command fails on standard error; with --json as JSON, with those details that are not empty."""
        if self.json:
            told = {"message": text, **details}
            self.print_json({name: value for name, value in told.items() if value}, to_errors=True)
        else:
            self.say(f"error: {text}", "red")

    def own(self, text: str) -> str:
        """A text of a server in words of the command line."""
        return in_own_words(text, self.options)

    def show(self, message: str) -> None:
        """Print text of a server on standard output, without markup and, unless asked for, control characters."""
        self.out.print(styled(self.safe(message)))

    def safe(self, text: str) -> str:
        """A text of a server as results show it: what is piped into a file is shown by a terminal later."""
        return text if self.raw else harmless(text)


def session_of(context: typer.Context, as_json: bool = False) -> Session:
    """The session of a command; ``--json`` counts before and after its name."""
    root = context.find_root()
    if isinstance(root.obj, GlobalOptions):
        root.obj = session_from(root.obj)
    session = root.obj
    assert isinstance(session, Session)
    session.json = session.json or as_json
    # Options of all commands fill no field of a request.
    session.options = options_of(parameter for parameter in context.command.params if parameter.expose_value)
    return session


def session_from(options: GlobalOptions) -> Session:
    """The session of the global options. Raises what connection_from raises."""
    session = Session(connection_from(options), bool(options.as_json), bool(options.raw), wide=bool(options.wide))
    if session.wide:
        session.out = _console(stderr=False, wide=True)
    return session


def connection_from(options: GlobalOptions) -> Connection:
    """The connection of the global options, and of the context where they leave something out.

    Raises OSError when the authorities' file cannot be read, and ValueError for a context that cannot be used.
    """
    options = with_context(options)
    tls: Tls | bool = bool(options.tls)
    if options.ca_file:
        tls = Tls(root_certificates=options.ca_file.read_bytes())
    return Connection(
        # A connection without an address would take its group from the environment, also where it is to have none.
        address=options.address or DEFAULT_ADDRESS,
        token=options.token or None,
        group=options.group or "",
        tls=tls,
        timeout=options.timeout or DEFAULT_TIMEOUT,
    )


def plain(value: object) -> Any:
    """Messages as dicts, with the names of their fields as in the protos."""
    from google.protobuf.json_format import MessageToDict
    from google.protobuf.message import Message

    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def table(*columns: str) -> Table:
    """An empty table that folds long texts: what has to be read whole. ``>`` before a name aligns it to the right."""
    from coxswain.client.cli.unpadded_table import UnpaddedTable

    made = UnpaddedTable(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        name = column.removeprefix(">")
        justify: Literal["left", "right"] = "left" if name == column else "right"
        made.add_column(name, justify=justify, overflow="fold", no_wrap=name in _WHOLE)
    return made


def add_row(made: Table | Listing, *cells: object) -> None:
    """Add a row; markup in its cells is shown as it is."""
    from rich.text import Text

    def shown(cell: object) -> Text:
        return cell if isinstance(cell, Text) else Text(harmless(str(cell)))

    if isinstance(made, Listing):
        made.add_row(*(cell if isinstance(cell, When) else shown(cell) for cell in cells))
    else:
        made.add_row(*map(shown, cells))


def styled(text: str, style: str = "") -> Text:
    """A text in a style of rich, without markup."""
    # Help and completion need nothing of rich.
    from rich.text import Text

    return Text(text, style=style)


def one_line(text: str) -> str:
    """A text without line breaks and control characters."""
    return harmless(" ".join(text.split()))


def harmless(text: str) -> str:
    """A text with visible control characters: otherwise the output of a model could control the terminal."""
    return _CONTROLS.sub("\ufffd", text.replace("\r\n", "\n"))


def problem_table(problems: Iterable[Problem], title: str = "") -> Group:
    """A table of faults with their lines and fields, and with their files where they come from several."""
    from rich.console import Group

    problems = list(problems)
    files = any(problem.file for problem in problems)
    made = table(*(["file"] if files else []), ">line", "field", "what")
    for problem in problems:
        place = [problem.file] if files else []
        add_row(made, *place, problem.line or "", problem.field, problem.description)
    return Group(styled(title), made) if title else Group(made)


def progress_bar(console: Console) -> Progress:
    """A progress bar; it shows nothing unless the console is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def confirm(session: Session, what: str, verb: str, *, yes: bool) -> None:
    """Ask before something is lost. Raises typer.Abort for a no, and typer.Exit without a terminal to ask on."""
    if yes:
        return
    if not sys.stdin.isatty():
        session.fail(f"this would {verb} {what}; repeat with --yes")
        raise typer.Exit(EXIT_USAGE)
    typer.confirm(harmless(f"{verb.capitalize()} {what}?"), abort=True, err=True)


def debugging() -> bool:
    """Whether errors show their traceback."""
    return bool(os.environ.get("COXSWAIN_DEBUG"))
