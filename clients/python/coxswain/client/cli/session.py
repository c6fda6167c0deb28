"""What every command needs: a connection, and where to write."""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from coxswain.client.blocking import Client
from coxswain.client.connection import Connection, Tls
from coxswain.client.documents import Problem

EXIT_NOT_SUCCEEDED = 1
EXIT_USAGE = 2
EXIT_STATUS = 10
"""Added to the number of a gRPC status code: NOT_FOUND (5) ends with 15."""
EXIT_UNEXPECTED = 70
EXIT_INTERRUPTED = 130

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


# Of a pipe or a file: nothing is folded, so that every line holds what it names.
_PIPE_WIDTH = 4096
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_WHOLE = frozenset({"id", "name", "memory id", "service", "state", "line", "field", "zone", "last execution"})


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_PIPE_WIDTH)


@dataclass
class Session:
    """The global options, and the consoles."""

    connection: Connection = field(default_factory=Connection)
    json: bool = False
    out: Console = field(default_factory=lambda: _console(stderr=False))
    err: Console = field(default_factory=lambda: _console(stderr=True))

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client that is closed at the end."""
        options = self.connection
        with Client(
            options.address, token=options.token, group=options.group, tls=options.tls, timeout=options.timeout
        ) as client:
            yield client

    def print_json(self, value: object) -> None:
        """One line of JSON on standard output."""
        sys.stdout.write(json.dumps(plain(value), ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def say(self, text: str, style: str = "") -> None:
        """A remark on standard error, which leaves standard output to results."""
        self.err.print(Text(harmless(text) if self.err.is_terminal else text, style=style), soft_wrap=True)

    def show(self, message: str) -> None:
        """Text from a server, on standard output, never taken for markup nor, on a terminal, for commands to it."""
        self.out.print(Text(harmless(message) if self.out.is_terminal else message))


def session_of(context: typer.Context, as_json: bool = False) -> Session:
    """The session of a command; ``--json`` counts before and after its name."""
    session = context.find_root().obj
    assert isinstance(session, Session)
    session.json = session.json or as_json
    return session


def connection_from(
    address: str, token: str, group: str, tls: bool, ca_file: Path | None, timeout: float
) -> Connection:
    """The connection of the global options. Raises OSError when the authorities' file cannot be read."""
    encryption: Tls | bool = Tls(root_certificates=ca_file.read_bytes()) if ca_file is not None else tls
    return Connection(address=address, token=token or None, group=group, tls=encryption, timeout=timeout)


def plain(value: object) -> Any:
    """Messages as dicts, with the names of their fields as in the protos."""
    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def table(*columns: str) -> Table:
    """An empty table in the manner of all others; ``>`` before a name means aligned to the right."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        name = column.removeprefix(">")
        justify: Literal["left", "right"] = "left" if name == column else "right"
        made.add_column(name, justify=justify, overflow="fold", no_wrap=name in _WHOLE)
    return made


def add_row(made: Table, *cells: object) -> None:
    """A row whose cells are never taken for markup."""
    made.add_row(*(cell if isinstance(cell, Text) else Text(harmless(str(cell))) for cell in cells))


def one_line(text: str) -> str:
    """A text without its line breaks and without what a terminal would obey."""
    return harmless(" ".join(text.split()))


def harmless(text: str) -> str:
    """A text whose control characters are seen, not obeyed: what a model wrote could else write to the terminal."""
    return _CONTROLS.sub("\ufffd", text.replace("\r\n", "\n"))


def problem_table(problems: Iterable[Problem], title: str = "") -> Group:
    """Faults with their places."""
    made = table(">line", "field", "what")
    for problem in problems:
        add_row(made, problem.line or "", problem.field, problem.description)
    return Group(Text(title), made) if title else Group(made)


def progress_bar(console: Console) -> Progress:
    """A bar on a terminal, nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def confirm(session: Session, what: str, verb: str, *, yes: bool) -> None:
    """Ask before something is lost. Raises typer.Abort for a no, and typer.Exit where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        session.say(f"this would {verb} {what}; repeat with --yes", "red")
        raise typer.Exit(EXIT_USAGE)
    typer.confirm(harmless(f"{verb.capitalize()} {what}?"), abort=True, err=True)


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    return bool(os.environ.get("COXSWAIN_DEBUG"))
