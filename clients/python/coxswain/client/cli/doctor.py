"""The command `doctor`: what keeps an installation from working for you, and what to do about it."""

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import typer
from rich.text import Text

from coxswain.auth.v1.credential_pb2 import LinkOutcome
from coxswain.auth.v1.group_limits_pb2 import GetGroupLimitsRequest
from coxswain.client.blocking import Client
from coxswain.client.cli.secrets import question_about
from coxswain.client.cli.session import EXIT_NOT_SUCCEEDED, JsonOption, Session, add_row, one_line, session_of, table
from coxswain.client.cli.system import ELSEWHERE, health_of, public_services, who
from coxswain.client.connection import Connection, Tls, is_local
from coxswain.client.errors import CoxswainError
from coxswain.client.paging import pages
from coxswain.models.v1.model_pb2 import CredentialAvailability, ListModelsRequest, Model, Provider
from coxswain.orchestrator.v1.execution_pb2 import Execution, ExecutionState, ListExecutionsRequest
from coxswain.orchestrator.v1.worker_pb2 import ListWorkersRequest

OK, WARN, FAIL = "ok", "warn", "fail"
_STYLES = {OK: "green", WARN: "yellow", FAIL: "red"}
_CONNECT_SECONDS = 5.0
_RENEW_DAYS = 14
_LONG_WAIT_SECONDS = 60
_CLOCK_SECONDS = 5
_NEARLY = 0.9
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    check: str
    status: str
    text: str
    remedy: str = ""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(context: typer.Context, as_json: JsonOption = False) -> None:
    """Check address, TLS, services, identity, workers, queue, clock, credentials and limits, and say what to do.

    Exit code 1 means that something fails; warnings alone end with 0. What each process of the installation itself
    needs, such as its schema, it checks and says when it starts.

    Example: `coxswain doctor`
    """
    session = session_of(context, as_json)
    findings = list(_examine(session))
    if session.json:
        session.print_json({"address": session.connection.target, "findings": [asdict(found) for found in findings]})
    else:
        made = table("check", "", "what", "what to do")
        for found in findings:
            status = Text(found.status, style=_STYLES[found.status])
            add_row(made, found.check, status, one_line(session.own(found.text)), found.remedy)
        session.out.print(made)
    if any(found.status == FAIL for found in findings):
        raise typer.Exit(EXIT_NOT_SUCCEEDED)


def _examine(session: Session) -> Iterator[Finding]:
    yield from _encryption(session.connection)
    with session.client() as client:
        reached = list(_guarded("services", _services, client))
        yield from reached
        if any(found.remedy == _START for found in reached):
            return
        checks: dict[str, Callable[[Client], Iterable[Finding]]] = {
            "identity": _identity,
            "workers": _workers,
            "queue": _queue,
            "credentials": _credentials,
            "limits": _limits,
        }
        for name, check in checks.items():
            yield from _guarded(name, check, client)


_START = "start a server with `coxswain up`, or give the address of another one with --address"


def _guarded(name: str, check: Callable[[Client], Iterable[Finding]], client: Client) -> Iterator[Finding]:
    """Yield what a check finds; that it cannot be made is a finding as well."""
    try:
        yield from check(client)
    except CoxswainError as error:
        match error.code.name:
            case "PERMISSION_DENIED":
                yield Finding(name, WARN, f"not checked: {error.message}", "ask an operator of the group to check it")
            case "UNIMPLEMENTED":
                yield Finding(name, WARN, "not served at this address", "give the address of its service")
            case "UNAVAILABLE" if not error.reason:
                yield Finding(name, FAIL, "the server cannot be reached", _START)
            case _:
                yield Finding(name, FAIL, f"{error.message} ({error.reason or error.code.name})")


def _encryption(connection: Connection) -> Iterator[Finding]:
    target = connection.target
    if connection.credentials is None:
        if is_local(target):
            yield Finding("tls", OK, f"{target} is on this machine: no encryption is needed")
        else:
            yield Finding("tls", WARN, f"tokens and answers go to {target} unencrypted", "use --tls or --ca-file")
        return
    host, _, port = target.rpartition("/")[2].rpartition(":")
    tls = connection.tls if isinstance(connection.tls, Tls) else Tls()
    trust = ssl.create_default_context(cadata=(tls.root_certificates or b"").decode("ascii", "replace") or None)
    trust.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS) as plain,
            trust.wrap_socket(plain, server_hostname=tls.server_name or host.strip("[]")) as encrypted,
        ):
            expires = ssl.cert_time_to_seconds(str((encrypted.getpeercert() or {})["notAfter"]))
    except ssl.SSLCertVerificationError as error:
        yield Finding("tls", FAIL, f"{target}: {error.verify_message}", "give its authority with --ca-file")
    except (OSError, ValueError) as error:
        yield Finding("tls", FAIL, f"{target}: {error}", "check address and port, and that it speaks TLS")
    else:
        days = (expires - time.time()) / 86_400
        text = f"the certificate of {target} is valid for {days:.0f} more days"
        soon = days < _RENEW_DAYS
        yield Finding("tls", WARN if soon else OK, text, "renew it; replaced files are read at once" if soon else "")


def _services(client: Client) -> Iterator[Finding]:
    states = {name: health_of(client, name) for name in public_services()}
    ill = [name for name, state in states.items() if state == "not serving"]
    for name in ill:
        yield Finding("services", FAIL, f"{name} does not serve", "look at the log of its process")
    absent = [name for name, state in states.items() if state == ELSEWHERE]
    serving = len(states) - len(ill) - len(absent)
    if absent:
        text = f"{serving} of {len(states)} services serve here, {len(absent)} elsewhere"
        yield Finding("services", WARN, text, "check the other addresses too")
    elif not ill:
        yield Finding("services", OK, f"all {serving} serve")


def _identity(client: Client) -> Iterator[Finding]:
    caller = client.whoami()
    status, remedy = (OK, "") if caller.principal.group_id else (WARN, "choose a group with --group")
    yield Finding("identity", status, f"you are {who(caller)}", remedy)


def _workers(client: Client) -> Iterator[Finding]:
    hosts = client.workers.ListWorkers(ListWorkersRequest())
    if hosts.worker_count:
        yield Finding("workers", OK, f"{hosts.worker_count} worker hosts are alive")
    else:
        yield Finding("workers", FAIL, "no worker host is alive: executions wait", "start one, or look at its log")
    if hosts.tool_gateway_serving:
        yield Finding("tool gateway", OK, "it serves")
    else:
        text = "it does not answer: calls of sources and of tools that reach the world fail"
        yield Finding("tool gateway", WARN, text, "start one, and set COXSWAIN_TOOLS_ADDRESS of the orchestrator")


def _queue(client: Client) -> Iterator[Finding]:
    now = datetime.now(UTC)
    queued = ListExecutionsRequest(states=[ExecutionState.EXECUTION_STATE_QUEUED], page_size=_PAGE)
    # Newest first.
    waiting = client.executions.ListExecutions(queued).executions
    queued.max_create_time.FromDatetime(now - timedelta(seconds=_LONG_WAIT_SECONDS))
    waiting_long = client.executions.ListExecutions(queued).executions
    ahead = (waiting[0].create_time.ToDatetime(UTC) - now).total_seconds() if waiting else 0
    if ahead > _CLOCK_SECONDS:
        text = f"the clock of this machine is at least {ahead:.0f} s behind the server's"
        yield Finding("clock", WARN, text, "synchronise both: tokens and deadlines depend on it")
    if waiting_long:
        text = f"{_counted(waiting_long)} of your group have waited for a worker for over {_LONG_WAIT_SECONDS} s"
        yield Finding("queue", WARN, text, "run more worker hosts, or raise COXSWAIN_WORKER_SLOTS or _GROUP_LIMIT")
    else:
        yield Finding("queue", OK, f"{_counted(waiting)} of your group wait for a worker, none for long")


def _counted(executions: Sequence[Execution]) -> str:
    return f"{len(executions):,}{' or more' if len(executions) == _PAGE else ''} executions"


def _credentials(client: Client) -> Iterator[Finding]:
    models = list(pages(client.models.ListModels, ListModelsRequest(enabled_only=True), "models"))
    usable = [model for model in models if model.credential != CredentialAvailability.CREDENTIAL_AVAILABILITY_MISSING]
    if usable:
        yield Finding("models", OK, f"{len(usable)} of {len(models)} enabled models can be called")
    else:
        yield Finding("models", FAIL, "no model can be called", "enable one, or store a key with `coxswain secret put`")
    for name in sorted({_secret(model) for model in models} - {_secret(model) for model in usable}):
        found = client.auth.ExplainCredential(question_about(name, ""))
        broken = [link for link in found.links if link.outcome in _BROKEN]
        text = "; ".join(f"{link.link}: {link.detail}" for link in broken) or "there is none"
        yield Finding(
            f"credential {name}", FAIL if broken else WARN, text, f"`coxswain secret explain {name}` says more"
        )


def _secret(model: Model) -> str:
    """Return the name of the secret that a model is called with."""
    if model.provider == Provider.PROVIDER_LITELLM:
        return f"llm/{model.upstream_model.partition('/')[0]}"
    name = Provider.Name(model.provider).removeprefix("PROVIDER_").lower()
    return "databricks/api-key" if model.provider == Provider.PROVIDER_DATABRICKS else f"llm/{name}"


_BROKEN = {
    LinkOutcome.LINK_OUTCOME_REJECTED,
    LinkOutcome.LINK_OUTCOME_EXPIRED,
    LinkOutcome.LINK_OUTCOME_UNAVAILABLE,
}


def _limits(client: Client) -> Iterator[Finding]:
    found = client.groups.GetGroupLimits(GetGroupLimitsRequest())
    used = {field.name: value for field, value in found.used.ListFields()}
    limited = {field.name: value for field, value in found.effective.ListFields()}
    near = {name: (used[name], most) for name, most in limited.items() if used.get(name, 0) >= _NEARLY * most > 0}
    for name, (amount, most) in near.items():
        remedy = f"an operator raises it with `coxswain limits set GROUP {name}=NUMBER`"
        yield Finding("limits", WARN, f"{name}: {amount:,.15g} of {most:,.15g} are used", remedy)
    if not near:
        yield Finding("limits", OK, f"{len(limited)} are set for your group, none is nearly used up")
