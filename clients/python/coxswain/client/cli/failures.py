"""How a failed command ends: what it says, and its exit code."""

import os
import sys
from dataclasses import asdict, replace
from typing import Any

import grpc
from typer._click.exceptions import ClickException

from coxswain.client.cli.encryption import tls_mismatch
from coxswain.client.cli.names import names_of
from coxswain.client.cli.remedies import remedy_for
from coxswain.client.cli.session import (
    EXIT_INTERRUPTED,
    EXIT_NOT_SUCCEEDED,
    EXIT_STATUS,
    EXIT_USAGE,
    Session,
    debugging,
    problem_table,
)
from coxswain.client.cli.usage_errors import in_plain_words
from coxswain.client.cli.words import field_in_own_words
from coxswain.client.documents import DocumentError, Problem
from coxswain.client.errors import CoxswainError
from coxswain.client.near import LIKENESS_OF_NAMES, did_you_mean, near_names
from coxswain.client.results import ExecutionNotSucceeded, id_of
from coxswain.client.text_files import TextFileError

_SECONDS_FOR_NAMES = 2.0
# Ids of one hour begin alike: near is one with a slip of a key or two.
_LIKENESS_OF_IDS = 0.9


def end_of(error: BaseException, state: object, *, as_json: bool = False) -> int:
    """Say what went wrong and return the exit code. Raises what is no failure of a kind that people can act on.

    ``state`` is the session, once the command has one. ``as_json`` says that the line has --json.
    """
    session = state if isinstance(state, Session) else Session()
    session.json = session.json or as_json
    match error:
        case KeyboardInterrupt():
            return EXIT_INTERRUPTED
        case BrokenPipeError():
            # The reader has closed the pipe; there is nothing left to flush to.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_USAGE
        case ClickException():
            return _report_usage(session, in_plain_words(error))
        case CoxswainError() | ExecutionNotSucceeded() | DocumentError() | TextFileError() | OSError() | ValueError():
            if debugging():
                raise error
            return _report(session, error)
        case _:
            raise error


def _report_usage(session: Session, error: ClickException) -> int:
    if session.json:
        parameter: Any = getattr(error, "param", None)
        long = next((spelling for spelling in getattr(parameter, "opts", ()) if spelling.startswith("--")), "")
        name = getattr(error, "param_hint", None) or long or (parameter.get_error_hint() if parameter else "")
        text = error.format_message()
        fields = [{"field": name.strip("'"), "description": error.message or text}] if name else []
        session.fail(text, reason="WRONG_USAGE", fields=fields)
    else:
        error.show()
    return EXIT_USAGE


def _report(session: Session, error: Exception) -> int:
    """Print the error and what to do about it; return the exit code."""
    match error:
        case DocumentError():
            own = [replace(problem, description=session.own(problem.description)) for problem in error.problems]
            if session.json:
                session.fail(f"{error.path} is not valid", reason="FILE_INVALID", fields=[asdict(each) for each in own])
                return EXIT_USAGE
            session.err.print(problem_table(own, f"{error.path} is not valid"))
            return EXIT_USAGE
        case ExecutionNotSucceeded():
            if session.json:
                session.fail(str(error), reason=error.execution.error.reason)
            else:
                session.say(str(error), "red")
            return EXIT_NOT_SUCCEEDED
        case CoxswainError():
            _report_call(session, error)
            return EXIT_STATUS + int(error.code.value[0])
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            session.fail(f"{where}{error.strerror or error}")
            return EXIT_USAGE
        case _:
            session.fail(str(error))
            return EXIT_USAGE


def _report_call(session: Session, error: CoxswainError) -> None:
    # The texts of gRPC itself about a lost connection or an unknown method are for its developers.
    message, remedy = error.message, ""
    if not error.reason and error.code is grpc.StatusCode.UNAVAILABLE:
        message = f"{session.connection.target} cannot be reached"
        if mismatch := tls_mismatch(session.connection):
            message, remedy = mismatch.text, mismatch.remedy
    elif not error.reason and error.code is grpc.StatusCode.UNIMPLEMENTED:
        message = f"{session.connection.target} does not serve this"
    if session.json:
        return session.fail(
            message,
            code=error.code.name,
            reason=error.reason,
            metadata=error.metadata,
            fields=[asdict(fault) for fault in error.violations],
            retry_after=error.retry_after,
            request_id=error.request_id,
        )
    reason = f", {error.reason}" if error.reason not in {"", error.code.name} else ""
    unnamed = [violation for violation in error.violations if violation.description not in error.message]
    # The parts of a crew have no options.
    own = session.options if error.reason != "CREW_INVALID" else {}
    fields = {violation.field: field_in_own_words(violation.field, own) for violation in error.violations}
    for path in sorted(fields, key=len, reverse=True):
        message = message.replace(f"{path}: ", f"{fields[path]}: ")
    session.say(f"error: {session.own(message)} ({error.code.name}{reason})", "red")
    if unnamed:
        faults = [Problem(fields[violation.field], session.own(violation.description)) for violation in unnamed]
        session.err.print(problem_table(faults))
    if error.retry_after is not None:
        session.say(f"try again in {error.retry_after:g} s")
    if remedy := remedy or _meant(session, error) or remedy_for(error):
        session.say(remedy)
    if error.request_id:
        session.say(f"request id {error.request_id}", "dim")
    return None


def _meant(session: Session, error: CoxswainError) -> str:
    """Which names are near the one that the server does not know; empty where the server says so itself, or none is."""
    match error.reason:
        case "NOT_FOUND":
            resource, name = error.metadata.get("resource", ""), error.metadata.get("id", "")
        case "TOOL_NOT_FOUND":
            name, slash, _ = error.metadata.get("tool", "").partition("/")
            resource = "tool source" if slash else "tool"
        case "GROUP_NOT_MEMBER":
            resource, name = "group", error.metadata.get("group", "")
        case _:
            return ""
    if not name or "did you mean" in error.message:
        return ""
    connection = replace(session.connection, timeout=_SECONDS_FOR_NAMES)
    if resource == "group":
        connection = replace(connection, group="")
    try:
        known = names_of(connection, resource)
    except grpc.RpcError:
        # The caller may not list them; what was not found is said all the same.
        return ""
    if name in known:
        # It is something else that is not known, such as a tool of this source.
        return ""
    likeness = _LIKENESS_OF_IDS if id_of(name) else LIKENESS_OF_NAMES
    return did_you_mean(near_names(name, known, likeness=likeness))
