"""The command `coxswain tool provider check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coxswain.client.cli.session import (
    EXIT_NOT_SUCCEEDED,
    JsonOption,
    Session,
    add_row,
    one_line,
    session_of,
    styled,
    table,
)
from coxswain.client.connection import MAX_MESSAGE_BYTES, Connection, Tls
from coxswain.client.later import provider_check

if TYPE_CHECKING:
    import grpc


app = typer.Typer(no_args_is_help=True, help="Try backends that provide tools over gRPC.")

_STYLES = {
    "CONFORMS": "green",
    "ALLOWED": "yellow",
    "FAULT": "red",
    "SKIPPED": "dim",
}


@app.callback()
def provider() -> None:
    """Try backends that implement `coxswain.tools.v1.ToolProvider`."""


@app.command("check")
def check(
    context: typer.Context,
    address: Annotated[str, typer.Argument(help="host:port of the provider; https:// before it means TLS.")],
    tool: Annotated[str, typer.Option(help="A tool to call. It is really called, about six times.")] = "",
    arguments: Annotated[str, typer.Option(help="Its arguments, a JSON object.")] = "{}",
    ca_file: Annotated[Path | None, typer.Option(help="PEM of the authorities to trust; means TLS.")] = None,
    header: Annotated[
        list[str] | None, typer.Option(help='Metadata of each call. Example: --header "authorization: Bearer x"')
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds a call may take.")] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Say what of a provider conforms to `coxswain.tools.v1.ToolProvider`, and what does not.

    It lists the tools; with --tool it also calls one, repeats a call id, cuts a call, asks GetCall and cancels.

    Example: `coxswain tool provider check 127.0.0.1:50061 --tool pay_invoice --arguments '{"number": "17"}'`

    Exit codes: 0 it conforms, 1 it does not, 2 wrong usage.
    """
    session = session_of(context, as_json)
    try:
        json.loads(arguments)
    except ValueError as error:
        raise typer.BadParameter(f"not valid JSON: {error}", param_hint="--arguments") from None
    metadata = [_metadata(entry) for entry in header or ()]
    with _channel(address, ca_file) as channel:
        checking = provider_check.ProviderCheck(
            channel, metadata=metadata, tool=tool, arguments=arguments, timeout=timeout
        )
        findings = list(checking.findings())
    _show(session, findings)
    if any(finding.verdict is provider_check.Verdict.FAULT for finding in findings):
        raise typer.Exit(EXIT_NOT_SUCCEEDED)


def _show(session: Session, findings: list[provider_check.Finding]) -> None:
    if session.json:
        session.print_json([{"step": each.step, "verdict": each.verdict.value, "text": each.text} for each in findings])
        return
    made = table("step", "verdict", "what")
    for each in findings:
        add_row(made, each.step, styled(each.verdict.value, _STYLES[each.verdict.name]), one_line(each.text))
    session.out.print(made)


def _metadata(entry: str) -> tuple[str, str]:
    name, separator, value = entry.partition(":")
    if not separator or not name.strip():
        raise typer.BadParameter(f'"{entry}" is not written NAME: VALUE', param_hint="--header")
    return name.strip().lower(), value.strip()


def _channel(address: str, ca_file: Path | None) -> grpc.Channel:
    import grpc

    tls: Tls | bool = Tls(root_certificates=ca_file.read_bytes()) if ca_file is not None else False
    connection = Connection(address=address, tls=tls)
    options = [
        # A check must see what the provider does, not what a repetition of gRPC makes of it.
        ("grpc.enable_retries", 0),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ]
    if connection.credentials is None:
        return grpc.insecure_channel(connection.target, options=options)
    return grpc.secure_channel(connection.target, connection.credentials, options=options)
