"""Commands about the installation: up, version, status, whoami."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from coxswain.client.cli.listing import Listing
from coxswain.client.cli.remedies import serves_here
from coxswain.client.cli.roles import role_name
from coxswain.client.cli.session import (
    EXIT_STATUS,
    EXIT_USAGE,
    JsonOption,
    Session,
    add_row,
    session_of,
    styled,
)
from coxswain.client.later import access_pb2, errors, policy, principal_pb2, worker_pb2
from coxswain.client.version import VERSION

if TYPE_CHECKING:
    from coxswain.client.blocking import Client

_SECONDS_FOR_VERSIONS = 2.0
ELSEWHERE = "not served here"
_HEALTH_STYLES = {"serving": "green", "not serving": "red", ELSEWHERE: "dim"}


def up(
    context: typer.Context,
    db: Annotated[str, typer.Option(help="sqlite, or postgres to start a PostgreSQL server as well.")] = "sqlite",
) -> None:
    """Serve all services on this machine until Ctrl-C.

    COXSWAIN_HOST, COXSWAIN_PORT, COXSWAIN_DATA_DIR and COXSWAIN_WORKERS set the listener, the data and the number of
    worker hosts.

    Example: `COXSWAIN_PORT=6000 coxswain up`
    """
    session = session_of(context)
    if not serves_here():
        session.fail("the services are not installed here, only the client; run this in a checkout")
        raise typer.Exit(EXIT_USAGE)
    sys.stdout.flush()
    # The same process: signals and exit codes are the suite's own.
    os.execv(sys.executable, [sys.executable, "-m", "services.suite", "--db", db])  # noqa: S606


def version(context: typer.Context, as_json: JsonOption = False) -> None:
    """Print the version of this client, and of the server where one answers at once.

    `coxswain --version` prints that of the client alone.

    Example: `coxswain version --json`
    """
    session = session_of(context, as_json)
    if not session.json:
        session.show(f"coxswain {VERSION}")
    releases = _releases(session)
    if session.json:
        session.print_json({"version": VERSION, "services": releases})
    elif len(set(releases.values())) == 1:
        session.show(f"server {next(iter(releases.values()))} at {session.connection.target}")
    else:
        for service, release in releases.items():
            session.show(f"{service} {release}")


def _releases(session: Session) -> dict[str, str]:
    """The release of each service that answers soon, by its package, such as {"auth": "0.1.0"}."""
    try:
        with session.client() as client:
            return dict(_answers(client))
    except ValueError:
        # Nothing can be asked at such an address, and this client has its version all the same.
        return {}


def _answers(client: Client) -> Iterator[tuple[str, str]]:
    services = {service.split(".")[1]: service for service in public_services()}
    until = time.monotonic() + _SECONDS_FOR_VERSIONS
    for package, service in sorted(services.items()):
        try:
            release = client.release(service, timeout=max(until - time.monotonic(), 0.01))
        except errors.CoxswainError:
            continue
        if release:
            yield package, release


def status(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show whether each service is serving, and who you are.

    Example: `coxswain --address example.com:443 --tls status`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        health = {name: health_of(client, name) for name in public_services()}
        try:
            caller: principal_pb2.WhoAmIResponse | errors.CoxswainError = client.whoami()
        except errors.CoxswainError as error:
            caller = error
        hosts = _hosts(client)
    # A service that runs alone knows nothing of the others.
    serving = {state for state in health.values() if state != ELSEWHERE} == {"serving"}
    if session.json:
        you = str(caller) if isinstance(caller, errors.CoxswainError) else caller
        session.print_json(
            {
                "address": session.connection.target,
                "services": health,
                "workers": None if hosts is None else hosts.worker_count,
                "tool_gateway": None if hosts is None else hosts.tool_gateway_serving,
                "caller": you,
            }
        )
    else:
        session.show(session.connection.target)
        made = Listing("service", "health")
        for name, state in health.items():
            add_row(made, name, styled(state, _HEALTH_STYLES[state]))
        session.out.print(made)
        if hosts is not None:
            session.show(f"worker hosts: {hosts.worker_count or 'none; executions wait in their queue'}")
            lost = "does not answer; calls of sources and of tools that reach the world fail"
            session.show(f"tool gateway: {'serving' if hosts.tool_gateway_serving else lost}")
        session.show(f"you are {who(caller)}")
    if not serving or isinstance(caller, errors.CoxswainError):
        import grpc

        raise typer.Exit(EXIT_STATUS + int(grpc.StatusCode.UNAVAILABLE.value[0]))


def public_services() -> list[str]:
    """The services that clients call; others are told of by what they are for."""
    services = (service for file in policy.FILES for service in file.services_by_name.values())
    return [
        service.full_name
        for service in services
        if any(
            method.GetOptions().Extensions[access_pb2.access] == access_pb2.Access.ACCESS_PUBLIC
            for method in service.methods
        )
    ]


def health_of(client: Client, service: str) -> str:
    try:
        return "serving" if client.healthy(service) else "not serving"
    except errors.NotFound:
        return ELSEWHERE


def _hosts(client: Client) -> worker_pb2.ListWorkersResponse | None:
    """Return the worker hosts that are alive and whether there is a tool gateway; None if the server does not say."""
    try:
        return client.workers.ListWorkers(worker_pb2.ListWorkersRequest())
    except errors.CoxswainError:
        return None


def who(caller: principal_pb2.WhoAmIResponse | errors.CoxswainError) -> str:
    if isinstance(caller, errors.CoxswainError):
        return f"not known: {caller}"
    principal = caller.principal
    if not principal.group_id:
        groups = ", ".join(membership.group_id for membership in caller.groups)
        invited = ", ".join(invitation.group_id for invitation in caller.invitations)
        accept = f"; invited to {invited}, which --group accepts" if invited else ""
        return f"{principal.subject}, in no group yet: choose one of {groups or 'none'} with --group{accept}"
    return f"{principal.subject}, {role_name(principal.role)} of {principal.group_id}"


def whoami(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show subject, group, role, the groups you may choose and those you are invited to.

    Example: `coxswain --token dev:alice:sales=editor whoami`
    """
    session = session_of(context, as_json)
    with session.client() as client:
        response = client.whoami()
    if session.json:
        return session.print_json(response)
    session.show(f"you are {who(response)}" + (", platform admin" if response.principal.platform_admin else ""))
    made = Listing("group", "role")
    for membership in response.groups:
        add_row(made, membership.group_id, role_name(membership.role))
    for invitation in response.invitations:
        add_row(
            made, invitation.group_id, f"{role_name(invitation.role)} (invited: --group {invitation.group_id} accepts)"
        )
    session.out.print(made)
    return None
