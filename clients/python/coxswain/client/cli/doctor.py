"""The command `doctor`: what keeps an installation from working for you, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import typer

from coxswain.client.cli.encryption import check_encryption
from coxswain.client.cli.findings import FAIL, OK, WARN, Finding
from coxswain.client.cli.group_limits import LOWERED, limit_origin
from coxswain.client.cli.releases import check_releases, compare_with_orchestrator
from coxswain.client.cli.remedies import how_to_reach, remedy_for
from coxswain.client.cli.secrets import question_about
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
from coxswain.client.cli.system import ELSEWHERE, health_of, public_services, who
from coxswain.client.later import (
    credential_pb2,
    errors,
    execution_pb2,
    group_limits_pb2,
    model_pb2,
    worker_pb2,
    worker_service_pb2,
)
from coxswain.client.paging import pages

if TYPE_CHECKING:
    from rich.table import Table

    from coxswain.client.blocking import Client

_STYLES = {OK: "green", WARN: "yellow", FAIL: "red"}
_LONG_WAIT_SECONDS = 60
_CLOCK_SECONDS = 5
_PRINCIPAL_LIFETIME = timedelta(minutes=5)
"""For how long a principal is valid at most."""
_NEARLY = 0.9
_WIDTH_WITH_REMEDIES = 120
_PAGE = 1000


def doctor(context: typer.Context, as_json: JsonOption = False) -> None:
    """Check address, TLS, services, releases, identity, workers, queue, clock, credentials, limits; say what to do.

    Exit code 1 means that something fails; warnings alone end with 0. What each process of the installation itself
    needs, such as its schema, it checks and says when it starts.

    Example: `coxswain doctor`
    """
    session = session_of(context, as_json)
    findings = list(_examine(session))
    if session.json:
        session.print_json({"address": session.connection.target, "findings": [asdict(found) for found in findings]})
    else:
        session.out.print(findings_table(session, findings, session.out.width))
    if any(found.status == FAIL for found in findings):
        raise typer.Exit(EXIT_NOT_SUCCEEDED)


def findings_table(session: Session, findings: Iterable[Finding], width: int) -> Table:
    """What was found, for people; where lines are short, what to do stands below what was found."""
    beside = width >= _WIDTH_WITH_REMEDIES
    made = table("check", "", "what", "what to do") if beside else table("check", "", "what")
    made.columns[0].no_wrap = made.columns[1].no_wrap = True
    for found in findings:
        status = styled(found.status, _STYLES[found.status])
        cells = (found.check, status, one_line(session.own(found.text)))
        add_row(made, *cells, *([found.remedy] if beside else []))
        if found.remedy and not beside:
            add_row(made, "", "", styled(f"-> {found.remedy}", "bold"))
    return made


def _examine(session: Session) -> Iterator[Finding]:
    for connection in dict.fromkeys(session.connection.of_services().values()):
        yield from check_encryption(connection)
    with session.client() as client:
        reached = list(_guarded("services", _services, client))
        yield from reached
        if any(found.remedy == how_to_reach() for found in reached):
            return
        yield from _guarded("releases", lambda client: check_releases(client, public_services()), client)
        identified = list(_guarded("identity", _identity, client))
        yield from identified
        # Every other call is refused for the same reason.
        if any(found.status == FAIL for found in identified):
            return
        checks: dict[str, Callable[[Client], Iterable[Finding]]] = {
            "clock": _clock,
            "workers": _workers,
            "queue": _queue,
            "credentials": _credentials,
            "limits": _limits,
        }
        for name, check in checks.items():
            yield from _guarded(name, check, client)


def _guarded(name: str, check: Callable[[Client], Iterable[Finding]], client: Client) -> Iterator[Finding]:
    """Yield what a check finds; that it cannot be made is a finding as well."""
    try:
        yield from check(client)
    except errors.CoxswainError as error:
        match error.code.name:
            case "PERMISSION_DENIED":
                yield Finding(name, WARN, f"not checked: {error.message}", "ask an operator of the group to check it")
            case "UNIMPLEMENTED":
                yield Finding(name, WARN, "not served at this address", "give the address of its service")
            case "UNAVAILABLE" if not error.reason:
                yield Finding(name, FAIL, "the server cannot be reached", how_to_reach())
            case code:
                yield Finding(name, FAIL, f"{error.message} ({error.reason or code})", _remedy(error))


def _remedy(error: errors.CoxswainError) -> str:
    match error.code.name:
        # The server itself has been reached: another one that it needs has not.
        case "UNAVAILABLE":
            remedy = ""
        case "UNAUTHENTICATED":
            remedy = remedy_for(error) or "give another token with --token or COXSWAIN_TOKEN"
        case _:
            remedy = remedy_for(error)
    return remedy or f"the logs of the services say more about request id {error.request_id or 'unknown'}"


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


def _clock(client: Client) -> Iterator[Finding]:
    """Compare this machine's clock with what answers tell of the server's: no answer tells its time exactly."""
    expires = client.whoami().principal.expire_time
    newest = client.executions.ListExecutions(execution_pb2.ListExecutionsRequest(page_size=1)).executions
    now = datetime.now(UTC)
    if not expires.seconds:
        yield Finding("clock", OK, "not checked: no answer says what time it is at the server")
        return
    # A principal is valid for a while longer, and what exists has been created.
    latest = expires.ToDatetime(UTC)
    earliest = max([latest - _PRINCIPAL_LIFETIME, *(execution.create_time.ToDatetime(UTC) for execution in newest)])
    behind, ahead = (earliest - now).total_seconds(), (now - latest).total_seconds()
    if max(behind, ahead) > _CLOCK_SECONDS:
        where = "behind" if behind > ahead else "ahead of"
        text = f"the clock of this machine is at least {max(behind, ahead):.0f} s {where} the server's"
        yield Finding("clock", WARN, text, "synchronise both: tokens and deadlines depend on it")
    else:
        most = max(-behind, -ahead, 0)
        yield Finding("clock", OK, f"not checked to the second: it differs from the server's by {most:.0f} s at most")


def _workers(client: Client) -> Iterator[Finding]:
    hosts = client.workers.ListWorkers(worker_pb2.ListWorkersRequest())
    server = _release_of_workers_api(client)
    if hosts.worker_count:
        text = f"{hosts.worker_count} worker hosts are alive"
        yield compare_with_orchestrator("workers", text, hosts.worker_releases, server)
    else:
        yield Finding("workers", FAIL, "no worker host is alive: executions wait", "start one, or look at its log")
    if hosts.tool_gateway_serving:
        # An orchestrator that does not tell the releases of hosts does not tell that of the gateway either.
        tells = hosts.worker_releases or hosts.tool_gateway_release or not hosts.worker_count
        told = [hosts.tool_gateway_release] if tells else []
        yield compare_with_orchestrator("tool gateway", "it serves", told, server)
    else:
        text = "it does not answer: calls of sources and of tools that reach the world fail"
        yield Finding("tool gateway", WARN, text, "start one, and set COXSWAIN_TOOLS_ADDRESS of the orchestrator")


def _release_of_workers_api(client: Client) -> str:
    """Return the release that hosts are compared with; empty where health checks, which tell it, lead nowhere."""
    try:
        return client.release(worker_service_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name)
    except errors.CoxswainError:
        return ""


def _queue(client: Client) -> Iterator[Finding]:
    queued = execution_pb2.ListExecutionsRequest(
        states=[execution_pb2.ExecutionState.EXECUTION_STATE_QUEUED], page_size=_PAGE
    )
    waiting = client.executions.ListExecutions(queued).executions
    queued.max_create_time.FromDatetime(datetime.now(UTC) - timedelta(seconds=_LONG_WAIT_SECONDS))
    # By number: a newer server has reasons without a name here.
    waits = {execution_pb2.QueueReason.Value(f"QUEUE_REASON_{name}"): wait for name, wait in _WAITS.items()}
    by_reason: dict[execution_pb2.QueueReason.ValueType, list[execution_pb2.Execution]] = {}
    for execution in client.executions.ListExecutions(queued).executions:
        reason = execution.queue.reason
        if reason in waits and _waits_since_its_start(execution):
            by_reason.setdefault(reason, []).append(execution)
    for reason, executions in by_reason.items():
        what, remedy = waits[reason]
        text = f"{_counted(executions)} of your group have waited {what} for over {_LONG_WAIT_SECONDS} s"
        yield Finding("queue", WARN, text, remedy)
    if not by_reason:
        yield Finding("queue", OK, f"{_counted(waiting)} of your group wait, none of them is known to wait for long")


_WAITS = {
    "NO_WORKER_HOST": ("for a worker host", "start one, or look at its log"),
    "GROUP_LIMIT": (
        "at the group's limit",
        "wait, or have max_running_executions (platform admins) or COXSWAIN_WORKER_GROUP_LIMIT raised",
    ),
    "SLOTS_BUSY": (
        "for a slot",
        "run more worker hosts, or raise COXSWAIN_WORKER_SLOTS",
    ),
    "STARTING": (
        "to be taken by a worker host",
        "look at the logs of the worker hosts",
    ),
    "TURN": (
        "for their turn",
        "wait for those with their concurrency_key, or end them with `coxswain cancel`",
    ),
}
"""What executions wait for, by the reason that the server gives, and what to do about it."""


def _waits_since_its_start(execution: execution_pb2.Execution) -> bool:
    """Whether it has waited for what it waits for now all the time, and not for an answer or its turn before."""
    if execution.queue.reason == execution_pb2.QueueReason.QUEUE_REASON_TURN:
        return True
    return not execution.claims and not execution.concurrency_key


def _counted(executions: Sequence[execution_pb2.Execution]) -> str:
    return f"{len(executions):,}{' or more' if len(executions) == _PAGE else ''} executions"


def _credentials(client: Client) -> Iterator[Finding]:
    models = list(pages(client.models.ListModels, model_pb2.ListModelsRequest(enabled_only=True), "models"))
    usable = [
        model
        for model in models
        if model.credential != model_pb2.CredentialAvailability.CREDENTIAL_AVAILABILITY_MISSING
    ]
    if usable:
        yield Finding("models", OK, f"{len(usable)} of {len(models)} enabled models can be called")
    else:
        yield Finding("models", FAIL, "no model can be called", "enable one, or store a key with `coxswain secret put`")
    missing = sorted({_secret(model) for model in models} - {_secret(model) for model in usable})
    for name in missing:
        yield _missing_credential(name, client.auth.ExplainCredential(question_about(name, "")))


def _missing_credential(name: str, found: credential_pb2.ExplainCredentialResponse) -> Finding:
    if found.resolvable:
        text = f"it belongs to {found.origin or 'another address'}, and not to the address of a model that needs it"
        remedy = f"`coxswain secret put {name} --origin ADDRESS` stores one for the model's address"
        return Finding(f"credential {name}", WARN, text, remedy)
    broken_outcomes = {
        credential_pb2.LINK_OUTCOME_REJECTED,
        credential_pb2.LINK_OUTCOME_EXPIRED,
        credential_pb2.LINK_OUTCOME_UNAVAILABLE,
    }
    broken = [link for link in found.links if link.outcome in broken_outcomes]
    text = "; ".join(f"{link.link}: {link.detail}" for link in broken) or "there is none"
    remedy = f"`coxswain secret explain {name}` says more"
    return Finding(f"credential {name}", FAIL if broken else WARN, text, remedy)


def _secret(model: model_pb2.Model) -> str:
    """Return the name of the secret that a model is called with."""
    if model.provider == model_pb2.Provider.PROVIDER_LITELLM:
        return f"llm/{model.upstream_model.partition('/')[0]}"
    name = model_pb2.Provider.Name(model.provider).removeprefix("PROVIDER_").lower()
    return "databricks/api-key" if model.provider == model_pb2.Provider.PROVIDER_DATABRICKS else f"llm/{name}"


def _limits(client: Client) -> Iterator[Finding]:
    found = client.groups.GetGroupLimits(group_limits_pb2.GetGroupLimitsRequest())
    used = {field.name: value for field, value in found.used.ListFields()}
    limited = {field.name: value for field, value in found.effective.ListFields()}
    nothing = [name for name, most in limited.items() if most == 0]
    near = [name for name, most in limited.items() if name in used and used[name] >= _NEARLY * most > 0]
    unseen = [name for name, most in limited.items() if name not in used and most > 0]
    for name in (*nothing, *near):
        if limit_origin(found, name) == LOWERED:
            field = group_limits_pb2.GroupLimits.DESCRIPTOR.fields_by_name[name].json_name
            remedy = (
                f"""an admin of your group lifts it: coxswain call LowerGroupLimits '{{"updateMask": "{field}"}}'"""
            )
        else:
            remedy = f"a platform admin raises it with `coxswain limits set GROUP {name}=NUMBER`"
        amount, most = used.get(name, 0), limited[name]
        text = f"{name}: {amount:,.15g} of {most:,.15g} are used" if most else f"{name} is 0: it allows nothing"
        yield Finding("limits", WARN, text, remedy)
    fine = len(limited) - len(nothing) - len(near) - len(unseen)
    text = f"{fine} of {len(limited)} in force are not nearly used up"
    if unseen:
        text += f"; how much is used of {', '.join(unseen)} cannot be seen from here"
    yield Finding("limits", OK, text)
