"""A fork server whose crew processes, for a crew named "attempts", make the attempts instead of running a task."""

import json
from typing import Any

from coxswain.orchestrator.v1.execution_pb2 import TaskOutput
from services.orchestrator.worker.crew import fork_server, runner
from tests.support.attempts import Surroundings, outcomes

_run_task = runner.run_task


def _probe(session: Any, index: int, request: Any) -> TaskOutput:
    if session.spec.name != "attempts":
        return _run_task(session, index, request)
    return TaskOutput(text=json.dumps(outcomes(Surroundings(**json.loads(session.inputs["around"])))))


if __name__ == "__main__":
    runner.run_task = _probe
    fork_server.main()
