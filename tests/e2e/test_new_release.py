"""A new release takes over from the previous one: its migrations run while that one works, then its processes start."""

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from coxswain.client import Client
from coxswain.orchestrator.v1.crew_pb2 import CreateCrewRequest, CrewSpec
from coxswain.orchestrator.v1.execution_pb2 import (
    Execution,
    ExecutionState,
    ListExecutionsRequest,
    StartExecutionRequest,
)
from coxswain.orchestrator.v1.schedule_pb2 import CreateScheduleRequest, Schedule
from services.common.clock import utc_now
from services.orchestrator.tables import schedules
from tests.e2e.support import ALICE, Scene, get, outputs
from tests.support.child_process import ROOT, run_python
from tests.support.installation import Caller, wait_until
from tests.support.llm_script import Fault
from tests.support.previous_release import extract
from tests.support.sources_of_tools import accept, open_questions
from tests.support.suite_process import SuiteProcess

ASKING, RESTING, QUEUED, SCHEDULED = 80, 60, 50, 10
SLOTS = 4
LINK = "services/orchestrator/worker/link"


@pytest.fixture(scope="module")
def previous_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the previous release's tree, ready to run."""
    tree = tmp_path_factory.mktemp("previous")
    extract(tree)
    protos = ["--own", f"coxswain/orchestrator/worker={LINK}", "protos", "gen"]
    subprocess.run([sys.executable, "tools/generate_protos.py", *protos], cwd=tree, check=True, capture_output=True)
    return tree


@pytest.fixture
def installation(
    empty_database_url: str, tmp_path: Path, model_environment: dict[str, str], previous_tree: Path
) -> Iterator[SuiteProcess]:
    """An installation of the previous release, which leaves its worker at the first failure of a model."""
    environment = model_environment | {
        "COXSWAIN_WORKER_SLOTS": str(SLOTS),
        "COXSWAIN_MIGRATE": "auto",
        "COXSWAIN_DRAIN_SECONDS": "2",
        "COXSWAIN_WORKER_DRAIN_SECONDS": "1",
        "COXSWAIN_WORKER_MODEL_WAIT_SLOT_SECONDS": "0.1",
        "COXSWAIN_WORKER_MODEL_RETRY_BASE_SECONDS": "30",
        "COXSWAIN_WORKER_MODEL_RETRY_SECONDS": "3600",
    }
    if empty_database_url.startswith("postgresql"):
        environment["COXSWAIN_DATABASE_URL"] = empty_database_url
    suite = SuiteProcess(tmp_path / "data", workers=1, environment=environment, root=previous_tree)
    suite.database_url = environment.get("COXSWAIN_DATABASE_URL", "")
    with suite.running():
        yield suite


@pytest.fixture
def alice(installation: SuiteProcess) -> Iterator[Caller]:
    """An editor of the group "sales"."""
    with installation.caller(ALICE) as caller:
        yield caller


def states(client: Client, started: list[Execution]) -> Counter[str]:
    """Count executions by their states."""
    return Counter(ExecutionState.Name(get(client, e).state).removeprefix("EXECUTION_STATE_") for e in started)


def wait_for_states(client: Client, started: list[Execution], **wanted: int) -> None:
    wait_until(lambda: states(client, started) == wanted, f"they are {wanted}: {states(client, started)}", 600)


def schedules_to_come(client: Client, crew: CrewSpec) -> list[str]:
    """Store schedules of a crew, none of which comes due by itself; return their ids."""
    crew.name += "-scheduled"
    crew_id = client.crews.CreateCrew(CreateCrewRequest(spec=crew)).crew.id
    start = StartExecutionRequest(crew_id=crew_id)
    planned = [Schedule(name=f"{crew.name}-{n}", cron="0 0 1 1 *", start=start) for n in range(SCHEDULED)]
    return [client.schedules.CreateSchedule(CreateScheduleRequest(schedule=each)).schedule.id for each in planned]


@pytest.mark.large
@pytest.mark.timeout(3000)
def test_what_is_parked_in_every_way_goes_on_in_the_new_release(
    scene: Scene, alice: Caller, installation: SuiteProcess
) -> None:
    client = alice.orchestrator
    for name in "asking", "published", "first", "scheduled":
        scene.answers(name, f"{name} done.")
    crew = scene.crew("asking", "published")
    crew.tasks[0].human_approval = True
    asking = [client.start(crew) for _ in range(ASKING)]
    wait_for_states(client, asking, WAITING_FOR_ANSWER=ASKING)

    migrate(installation)
    # From here on, the previous release works on the newest schema.
    assert client.run(scene.crew("first")).result.text == "first done."
    coming = schedules_to_come(client, scene.crew("scheduled"))
    resting = rest(scene, client)
    scene.answers("queued", hang=True)
    queued = [client.start(scene.crew("first", "queued")) for _ in range(QUEUED)]
    scene.wait_until_hanging("queued")
    # Limits of a rate do not make other calls to the provider pause, as outages would.
    assert {"RUNNING", "QUEUED"} <= set(states(client, queued))

    process = installation.process
    assert process is not None
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    missed = utc_now() - timedelta(hours=1)
    installation.change("orchestrator", schedules.update().values(next_fire_at=missed))
    scene.llm.clear_rules()
    for name in "asking", "published", "first", "scheduled", "resting", "queued":
        scene.answers(name, f"{name} done.")
    scene.llm.release()
    installation.root = ROOT
    installation.start()

    for execution in asking:
        (question,) = open_questions(client, execution)
        accept(client, question)
    started = [*asking, *resting, *queued]
    wait_for_states(client, started, SUCCEEDED=len(started))
    wait_until(lambda: all(fired(client, schedule) == ["SUCCEEDED"] for schedule in coming), "each schedule ran once")
    for execution in started:
        assert len({run.task_name for run in outputs(client, execution)}) == len(outputs(client, execution)) == 2
    assert len(scene.calls("asking")) == ASKING, "nothing was done again"
    # A call that the stop has cut off is made again: one in each slot at most.
    assert 0 <= len(scene.calls("first")) - (RESTING + QUEUED + 1) <= SLOTS


def migrate(installation: SuiteProcess) -> None:
    """Run the new release's migrations while the previous one works."""
    code, printed = run_python(["-m", "services.common.db.migrate", "upgrade"], environment=installation.environment())
    assert code == 0, printed


def rest(scene: Scene, client: Client) -> list[Execution]:
    """Start executions that wait for their model without a worker."""
    scene.answers("resting", fault=Fault(status=429, retry_after="30"))
    started = [client.start(scene.crew("first", "resting")) for _ in range(RESTING)]
    wait_for_states(client, started, WAITING_FOR_MODEL=RESTING)
    return started


def fired(client: Client, schedule_id: str) -> list[str]:
    """Return the states of the executions that a schedule has started."""
    listed = client.executions.ListExecutions(ListExecutionsRequest(schedule_id=schedule_id)).executions
    return [ExecutionState.Name(execution.state).removeprefix("EXECUTION_STATE_") for execution in listed]
