"""A crew process: serves its host's calls until the host closes the link."""

import os
import socket

from services.orchestrator.worker.crew import runner
from services.orchestrator.worker.crew.guard import refuse_network
from services.orchestrator.worker.crew.session import Session
from services.orchestrator.worker.link.crew_end import Link
from services.orchestrator.worker.link.framing import BadFrame, Frame


def serve(connection: socket.socket) -> int:
    """Serve one segment and return the exit status."""
    _silence()
    refuse_network()
    link = Link(connection)
    session: Session | None = None

    def open_session(params: Frame) -> Frame:
        nonlocal session
        session = Session.open(link, params)
        return {}

    def opened() -> Session:
        if session is None:
            raise RuntimeError("the host has not opened a session")
        return session

    try:
        link.serve(
            {
                "open": open_session,
                "task": lambda params: runner.run_task(opened(), params),
                "plan": lambda params: runner.make_plan(opened(), params),
            }
        )
    except BadFrame:
        return 1
    return 0


def _silence() -> None:
    """Drop what CrewAI prints: prompts and answers are nobody's log lines."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)
