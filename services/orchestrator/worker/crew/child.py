"""A crew process: serves its host's calls until the host closes the link."""

import contextlib
import os
import socket

from coxswain.orchestrator.worker.link_pb2 import CrewReply, HostRequest, Verdict
from services.common.child_process import BadFrame
from services.common.proc_files import open_proc
from services.common.process_name import ProcessName
from services.orchestrator.worker.crew import runner
from services.orchestrator.worker.crew.conditions import condition_holds
from services.orchestrator.worker.crew.containment import CrewContainment
from services.orchestrator.worker.crew.limits import impose, limit_error, limit_processor_time
from services.orchestrator.worker.crew.session import Session
from services.orchestrator.worker.link.crew_end import CrewEnd
from services.orchestrator.worker.link.limits import OUT_OF_MEMORY_STATUS, CrewLimits

SPARE, AT_WORK = "coxswain-spare", "coxswain-crew"
"""Names of a crew process before and after it has been given an execution."""


def serve(connection: socket.socket, containment: CrewContainment, token: int) -> int:
    """Serve one segment, contained with the directory named after `token`, and return the exit status."""
    name = ProcessName()
    name.change(SPARE)
    limits = CrewLimits.read(os.environ)
    impose(limits)
    memory = _memory_file()
    containment.enter(f"{token}")
    # Until here standard error is the host's: it says why a process could not begin.
    _silence()
    _greet(connection, memory)
    link = CrewEnd(connection)
    session: Session | None = None

    def answer(request: HostRequest) -> CrewReply:
        try:
            return do(request)
        except Exception as error:
            exceeded = limit_error(error, limits)
            if exceeded is None:
                raise
            raise exceeded from error

    def do(request: HostRequest) -> CrewReply:
        nonlocal session
        match request.WhichOneof("request"):
            case "open_session":
                name.change(AT_WORK)
                if request.open_session.HasField("time_left"):
                    limit_processor_time(request.open_session.time_left.ToTimedelta())
                session = Session.open(link, request.open_session)
                return CrewReply()
            case "run_task" if session:
                return CrewReply(run_task=runner.run_task(session, request.task, request.run_task))
            case "evaluate_condition" if session:
                holds = condition_holds(session, request.task, request.evaluate_condition)
                return CrewReply(evaluate_condition=Verdict(holds=holds))
            case "make_plan" if session:
                return CrewReply(make_plan=runner.make_plan(session))
            case "save_result" if session:
                runner.save_result(session, request.task, request.save_result)
                return CrewReply()
            case kind:
                raise RuntimeError(f"{kind} before a session was opened")

    try:
        link.serve(answer)
    except BadFrame:
        return 1
    except MemoryError:
        return OUT_OF_MEMORY_STATUS
    return 0


def _memory_file() -> int | None:
    """Open the file that says how much memory this process has; afterwards nobody can without the rights of root."""
    with contextlib.suppress(OSError):
        return open_proc("smaps_rollup")
    return None


def _greet(connection: socket.socket, memory: int | None) -> None:
    """Tell the host that this process is ready, and hand over the file that says how much memory it has."""
    with contextlib.suppress(ConnectionError):  # the host is gone; the next read says so
        socket.send_fds(connection, [b"\0"], [] if memory is None else [memory])
    if memory is not None:
        os.close(memory)


def _silence() -> None:
    """Drop what CrewAI prints: prompts and answers do not belong in logs."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)
