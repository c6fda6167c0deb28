"""Worker hosts are killed at random under load, starved of processor time, and run crews without measure.

No execution is lost, none is done twice, and none ruins another one. `make chaos` runs it. `CHAOS_EXECUTIONS` (default
60) and `CHAOS_SEED` (printed) say how many are run while hosts are killed, and which hosts.
"""

import os
import random
import threading

import pytest

from coxswain.orchestrator.v1.execution_pb2 import Execution, ListExecutionsRequest
from tests.e2e.support import ALICE, SUCCEEDED, Scene, finish, get, kill_one_at_work, kinds, outputs
from tests.support.busy_processors import busy_processors
from tests.support.installation import Caller, Installation, crew_processes, wait_until

_AT_ONCE = 4
_STARVED = 12
_LOOPS_EACH = 4
_GREEDY = 8


@pytest.mark.chaos
def test_nothing_is_lost_or_doubled_while_hosts_are_killed(
    scene: Scene, alice: Caller, installation: Installation
) -> None:
    count = int(os.environ.get("CHAOS_EXECUTIONS", "60"))
    seed = int(os.environ.get("CHAOS_SEED", random.SystemRandom().randrange(10**6)))
    print(f"CHAOS_SEED={seed}")
    dice = random.Random(seed)
    for name in ("first", "second", "third"):
        scene.answers(name, f"Result of {name}.", latency_s=0.2)
    crew = alice.orchestrator.apply_crew(scene.crew("first", "second", "third")).crew
    started: list[Execution] = []
    slots = threading.Semaphore(_AT_ONCE)
    failures: list[BaseException] = []

    def run_one(number: int) -> None:
        try:
            with installation.client("orchestrator", ALICE) as client:
                execution = client.start(crew, request_id=f"{scene.mark}-{number}")
                # A client that is not sure whether its call arrived sends it again.
                assert client.start(crew, request_id=f"{scene.mark}-{number}").id == execution.id
                started.append(execution)
                finish(client, execution)
        except BaseException as error:
            failures.append(error)
        finally:
            slots.release()

    threads: list[threading.Thread] = []
    kills = 0
    for number in range(count):
        slots.acquire()
        thread = threading.Thread(target=run_one, args=(number,), daemon=True)
        thread.start()
        threads.append(thread)
        if number % 5 == 4:
            # All that was started may have ended before anybody looked.
            wait_until(
                lambda: (
                    any(map(crew_processes, installation.worker_hosts()))
                    or not any(map(threading.Thread.is_alive, threads))
                ),
                "a host is at work, or nothing is left to do",
                100,
            )
            kills += kill_one_at_work(installation, dice)
    for thread in threads:
        thread.join()

    assert not failures
    assert kills > count // 10, "most times a host was found at work"
    listed = alice.orchestrator.executions.ListExecutions(ListExecutionsRequest(crew_id=crew.id, page_size=1000))
    assert {execution.id for execution in listed.executions} == {execution.id for execution in started}
    assert len(started) == len({execution.id for execution in started}) == count
    for execution in started:
        events = finish(alice.orchestrator, execution)
        happened = kinds(events)
        assert get(alice.orchestrator, execution).state == SUCCEEDED
        assert happened.count("execution_succeeded") == 1
        assert happened[-1] == "execution_succeeded"
        completed = [event.task_name for event in events if event.HasField("task_completed")]
        assert completed == ["first", "second", "third"], "each task's result is stored once, in order"
        assert [run.output.text for run in outputs(alice.orchestrator, execution)] == [
            f"Result of {name}." for name in completed
        ]


@pytest.mark.chaos
def test_no_lease_is_lost_and_no_claim_repeated_with_four_busy_loops_on_each_processor(
    scene: Scene, alice: Caller, installation: Installation
) -> None:
    for name in ("first", "second"):
        scene.answers(name, f"Result of {name}.", latency_s=3)
    client = alice.orchestrator
    crew = client.apply_crew(scene.crew("first", "second")).crew
    losses = installation.logs.count("lease_lost")
    with busy_processors(_LOOPS_EACH):
        executions = [client.start(crew) for _ in range(_STARVED)]
        for execution in executions:
            finish(client, execution)
    ended = [get(client, execution) for execution in executions]
    assert {execution.state for execution in ended} == {SUCCEEDED}
    assert [execution.claims for execution in ended] == [1] * _STARVED
    assert len(scene.calls("first")) == len(scene.calls("second")) == _STARVED
    assert installation.logs.count("lease_lost") == losses


@pytest.mark.chaos
def test_crews_without_memory_end_with_the_limit_and_neither_hosts_nor_neighbours_suffer(
    scene: Scene, alice: Caller, installation: Installation
) -> None:
    scene.answers("calm", "Calm.", latency_s=1)
    client = alice.orchestrator
    calm = client.apply_crew(scene.crew("calm")).crew
    spec = scene.crew("greedy")
    spec.name += "-greedy"
    # More than a gibibyte, where a crew process may use one.
    spec.tasks[0].description = "{text}" * 2500
    greedy = client.apply_crew(spec).crew
    hosts = {host.pid for host in installation.worker_hosts()}
    wild = [client.start(greedy, {"text": "word " * 100_000}) for _ in range(_GREEDY)]
    tame = [client.start(calm) for _ in range(_GREEDY)]
    for execution in (*wild, *tame):
        finish(client, execution)
    for execution in wild:
        ended = get(client, execution)
        assert (ended.error.reason, ended.claims) == ("CREW_PROCESS_LIMIT", 1)
    for execution in tame:
        ended = get(client, execution)
        assert (ended.state, ended.claims) == (SUCCEEDED, 1)
    assert {host.pid for host in installation.worker_hosts()} == hosts
