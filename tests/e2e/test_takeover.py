"""Worker hosts die, freeze and wake: executions go on elsewhere and nothing is done twice. On both deployments."""

import signal
from collections.abc import Iterator

import pytest

from tests.e2e.support import ALICE, SUCCEEDED, Scene, finish, get, kinds, outputs, stored_state
from tests.support.busy_processors import busy_processors
from tests.support.installation import Caller, Installation, busy_host, crew_processes, wait_gone, wait_until
from tests.support.service_processes import ServiceProcesses
from tests.support.suite_process import SuiteProcess


@pytest.fixture
def alone(service_processes: ServiceProcesses) -> Iterator[Caller]:
    """The same where nobody looks after worker hosts."""
    service_processes.restore_workers()
    with service_processes.caller(ALICE) as caller:
        yield caller


@pytest.fixture
def supervised(suite: SuiteProcess) -> Iterator[Caller]:
    """The same in the suite, which looks after its worker hosts."""
    suite.restore_workers()
    with suite.caller(ALICE) as caller:
        yield caller


def test_another_host_finishes_what_a_killed_one_began(scene: Scene, alice: Caller, installation: Installation) -> None:
    execution = scene.start_and_hang_in_second(alice.orchestrator)
    host, crew_process = busy_host(installation)

    host.kill()
    events = finish(alice.orchestrator, execution)

    assert kinds(events)[-1] == "execution_succeeded"
    assert [run.output.text for run in outputs(alice.orchestrator, execution)] == [
        "First result.",
        "Second result.",
        "Third result.",
    ]
    assert len(scene.calls("first")) == 1, "a finished task is not run again"
    assert len(scene.calls("second")) == 2
    assert len(scene.calls("third")) == 1
    started = [event.execution_started for event in events if event.HasField("execution_started")]
    assert [(claim.claim, claim.takeover) for claim in started] == [(1, False), (2, True)]
    attempts = [event.attempt for event in events if event.HasField("task_started") and event.task_name == "second"]
    assert attempts == [1, 2]
    assert kinds(events).count("task_completed") == 3
    wait_gone([crew_process])


def test_a_host_that_wakes_after_its_takeover_changes_nothing(
    scene: Scene, alone: Caller, service_processes: ServiceProcesses
) -> None:
    alice, installation = alone, service_processes
    execution = scene.start_and_hang_in_second(alice.orchestrator)
    host, crew_process = busy_host(installation)
    installation.freeze(host)
    try:
        finish(alice.orchestrator, execution)
        # The last thing that happens to an execution by right.
        wait_until(
            lambda: not stored_state(installation, execution)["executions"][0]["grant_open"], "the grant is revoked"
        )
        before = stored_state(installation, execution)
        # The answer the frozen host was waiting for arrives while it sleeps.
        scene.llm.release()
    finally:
        host.send_signal(signal.SIGCONT)
    # It has noticed once it has given up its crew process.
    wait_gone([crew_process])

    scene.answers("after", "Afterwards.")
    later = alice.orchestrator.run(scene.crew("after"))

    assert later.state == SUCCEEDED
    now = stored_state(installation, execution)
    # Pieces of answers are removed after a while; nothing else may change.
    before["execution_events"] = [
        row for row in before["execution_events"] if row["kind"] != "llm_chunk" or row in now["execution_events"]
    ]
    assert now == before
    assert get(alice.orchestrator, execution).state == SUCCEEDED
    assert get(alice.orchestrator, execution).claims == 2
    assert len(scene.calls("first")) == 1
    assert len(scene.calls("third")) == 1


def test_a_killed_crew_process_does_not_end_its_execution(
    scene: Scene, alice: Caller, installation: Installation
) -> None:
    execution = scene.start_and_hang_in_second(alice.orchestrator)
    host, crew_process = busy_host(installation)

    crew_process.kill()
    events = finish(alice.orchestrator, execution)

    assert kinds(events)[-1] == "execution_succeeded"
    assert len(scene.calls("first")) == 1
    assert kinds(events).count("task_completed") == 3
    wait_until(lambda: not crew_processes(host), "the host has reaped its crew processes")


def test_the_suite_starts_a_host_that_hangs_again(scene: Scene, supervised: Caller, suite: SuiteProcess) -> None:
    execution = scene.start_and_hang_in_second(supervised.orchestrator)
    host, crew_process = busy_host(suite)
    suite.freeze(host)

    events = finish(supervised.orchestrator, execution)

    assert kinds(events)[-1] == "execution_succeeded"
    assert kinds(events).count("task_completed") == 3
    assert get(supervised.orchestrator, execution).claims == 2
    # Stopped as it was, it could not end by itself.
    wait_gone([host, crew_process])
    suite.restore_workers()
    assert "worker_hangs" in suite.logs


def test_hosts_that_get_little_processor_time_keep_their_leases(
    scene: Scene, supervised: Caller, suite: SuiteProcess
) -> None:
    scene.answers("slow", "Slow.", latency_s=2)
    client = supervised.orchestrator
    before = suite.logs.count("lease_lost")
    with busy_processors(2):
        executions = [client.start(scene.crew("slow")) for _ in range(4)]
        for execution in executions:
            assert kinds(finish(client, execution))[-1] == "execution_succeeded"
    assert [get(client, execution).claims for execution in executions] == [1] * 4
    assert len(scene.calls("slow")) == 4
    assert suite.logs.count("lease_lost") == before
