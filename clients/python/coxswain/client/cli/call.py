"""The command that calls any method of the API: call."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coxswain.client.cli.listing import Listing
from coxswain.client.cli.roles import role_name
from coxswain.client.cli.session import Session, add_row, session_of
from coxswain.client.later import access_pb2, blocking_channel, json_format, message_factory, policy
from coxswain.client.near import did_you_mean, near_names

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message


def _complete_method(incomplete: str) -> list[str]:
    return [
        path for path in _public_methods() if path.startswith(incomplete) or path.split("/")[1].startswith(incomplete)
    ]


def call(
    context: typer.Context,
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help="Package, service and method, such as coxswain.auth.v1.AuthService/WhoAmI, or the last of them alone.",
            autocompletion=_complete_method,
        ),
    ] = "",
    request: Annotated[
        str,
        typer.Argument(
            metavar="JSON",
            help="The request; @FILE reads a file, - standard input. A method that takes a stream reads one a line.",
        ),
    ] = "{}",
    every: Annotated[bool, typer.Option("--list", help="List all methods with the role that each needs.")] = False,
) -> None:
    """Call any method of the API with JSON, and print each answer as a line of the API's own JSON.

    An error is JSON as well, on standard error, with all that the server said.

    Examples:

        coxswain call --list

        coxswain call WhoAmI

        coxswain call coxswain.orchestrator.v1.CrewService/GetCrew '{"name": "brief"}'
    """
    session = session_of(context)
    known = _public_methods()
    if every:
        return _list(session, known)
    found = _method(method, known)
    session.json = True
    requests = list(_requests(found, _text(request)))
    channels = blocking_channel.open_blocking_channels(session.connection)
    try:
        # The second part of a package names the service: coxswain.models.v1.
        channel = channels[found.full_name.split(".")[1]]
        for answer in _answers(channel, found, requests):
            session.print_json(json_format.MessageToDict(answer))
    finally:
        for channel in channels.values():
            channel.close()
    return None


def _public_methods() -> dict[str, MethodDescriptor]:
    return {
        f"{method.containing_service.full_name}/{method.name}": method
        for method in policy.methods()
        if method.GetOptions().Extensions[access_pb2.access] == access_pb2.Access.ACCESS_PUBLIC
    }


def _list(session: Session, known: dict[str, MethodDescriptor]) -> None:
    if session.json:
        needed = {path: role_name(method.GetOptions().Extensions[access_pb2.role]) for path, method in known.items()}
        return session.print_json([{"method": path, "role": name} for path, name in needed.items()])
    made = Listing("method", "role")
    for path, method in known.items():
        add_row(made, path, role_name(method.GetOptions().Extensions[access_pb2.role]).replace("_", " "))
    session.out.print(made)
    return None


def _method(name: str, known: dict[str, MethodDescriptor]) -> MethodDescriptor:
    """The method of a name. Raises typer.BadParameter for one that is missing, unknown or not the only one."""
    wanted = name.strip("/")
    if not wanted:
        raise typer.BadParameter("give a method, or --list to see all", param_hint="METHOD")
    if wanted in known:
        return known[wanted]
    found = [path for path in known if path.endswith((f".{wanted}", f"/{wanted}"))]
    if len(found) == 1:
        return known[found[0]]
    if found:
        raise typer.BadParameter(f"several are called {name!r}: {', '.join(found)}", param_hint="METHOD")
    names = {path.rpartition("/")[2]: path for path in known}
    near = near_names(wanted.rpartition("/")[2], names, 1)
    hint = did_you_mean(names[one] for one in near) or "`coxswain call --list` shows all"
    raise typer.BadParameter(f"there is no method {name!r}; {hint}", param_hint="METHOD")


def _text(given: str) -> str:
    if given == "-":
        return sys.stdin.read()
    return Path(given[1:]).read_text(encoding="utf-8") if given.startswith("@") else given


def _requests(method: MethodDescriptor, text: str) -> Iterator[Message]:
    """The requests of a text. Raises typer.BadParameter for what is not JSON of their message."""
    kind = message_factory.GetMessageClass(method.input_type)
    # JSON may hold other line separators than this one.
    for number, line in enumerate(text.split("\n") if method.client_streaming else [text], 1):
        if not line.strip():
            if method.client_streaming:
                continue
            raise typer.BadParameter("nothing is given; {} is an empty request", param_hint="JSON")
        try:
            yield json_format.Parse(line, kind())
        except json_format.ParseError as error:
            where = f"line {number}: " if method.client_streaming else ""
            raise typer.BadParameter(f"{where}not a {method.input_type.name}: {error}", param_hint="JSON") from None


def _answers(channel: Any, method: MethodDescriptor, requests: list[Message]) -> Iterator[Message]:
    shape = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    invoke = getattr(channel, shape)(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=message_factory.GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    answer = invoke(iter(requests) if method.client_streaming else requests[0])
    return answer if method.server_streaming else iter([answer])
