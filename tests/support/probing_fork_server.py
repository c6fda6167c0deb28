"""A fork server whose crew processes, for a crew named "attempts", make the attempts instead of running a task.

For one named "sockets" they say which of their descriptors are sockets. A file in the home named "fails" has those
that are forked from then on fail to contain themselves, one named "hangs" has them hang there. Standard error goes to
a file of that name.
"""

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

from coxswain.orchestrator.v1.execution_pb2 import TaskOutput
from services.common.containment.contain import Measure, NotContained
from services.orchestrator.worker.crew import fork_server, runner
from services.orchestrator.worker.crew.containment import CrewContainment
from tests.support.attempts import Surroundings, outcomes, sockets
from tests.support.measured_fork_server import let_coverage_write

_HOME = Path(os.environ["HOME"])
_run_task = runner.run_task
_enter = CrewContainment.enter


def _probe(session: Any, index: int, request: Any) -> TaskOutput:
    match session.spec.name:
        case "attempts":
            return TaskOutput(text=json.dumps(outcomes(Surroundings(**json.loads(session.inputs["around"])))))
        case "sockets":
            return TaskOutput(text=json.dumps(sockets()))
    return _run_task(session, index, request)


def _enter_or_not(containment: CrewContainment, name: str) -> frozenset[Measure]:
    if (_HOME / "fails").exists():
        raise NotContained(errno.EINVAL, "file_rules: played")
    if (_HOME / "hangs").exists():
        signal.pause()
    return _enter(containment, name)


if __name__ == "__main__":
    with (_HOME / "stderr").open("wb") as file:
        os.dup2(file.fileno(), 2)
    let_coverage_write()
    vars(runner)["run_task"] = _probe
    CrewContainment.enter = _enter_or_not  # type: ignore[method-assign, assignment]
    fork_server.main()
