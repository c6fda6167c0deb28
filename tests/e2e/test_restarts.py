"""The suite is killed, told to stop and started again: executions go on, clients keep watching."""

import contextlib
import signal
import sqlite3
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from a2a.types import a2a_pb2 as pb
from a2a.types.a2a_pb2_grpc import A2AServiceStub
from sqlalchemy import select

from coxswain.client import Client
from coxswain.orchestrator.v1.a2a_pb2 import A2ASpec, ListPublicationsRequest
from coxswain.orchestrator.v1.crew_pb2 import CreateCrewRequest
from coxswain.orchestrator.v1.execution_pb2 import (
    Execution,
    ExecutionEvent,
    ExecutionEventKind,
    ListExecutionsRequest,
    StartExecutionRequest,
)
from coxswain.orchestrator.v1.schedule_pb2 import CreateScheduleRequest, DeleteScheduleRequest, Schedule
from coxswain.orchestrator.v1.webhook_pb2 import (
    CreateWebhookRequest,
    DeleteWebhookRequest,
    ListWebhookDeliveriesRequest,
    Webhook,
    WebhookDelivery,
    WebhookDeliveryState,
)
from services.common.clock import utc_now
from services.orchestrator.tables import execution_events, schedules
from services.suite import backup
from tests.e2e.support import ALICE, SUCCEEDED, Scene, finish, get, kinds, stored_sequences, stored_state
from tests.support.child_process import WAIT_SECONDS, descendants
from tests.support.http_emulator import Gate
from tests.support.installation import Caller, wait_gone, wait_until
from tests.support.sources_of_tools import accept, open_questions
from tests.support.suite_process import SuiteProcess
from tests.support.webhook_receiver import WebhookReceiver


@pytest.fixture(scope="module")
def own_suite(tmp_path_factory: pytest.TempPathFactory, model_environment: dict[str, str]) -> Iterator[SuiteProcess]:
    """A suite of this module's own, with one worker host, that callers use TLS with."""
    directory = tmp_path_factory.mktemp("restarted")
    environment = model_environment | {"COXSWAIN_DRAIN_SECONDS": "2"}
    with SuiteProcess(
        directory / "data", workers=1, environment=environment, certificates=directory / "tls"
    ).running() as running:
        yield running


@pytest.fixture
def restarted(own_suite: SuiteProcess) -> SuiteProcess:
    """The same, running; tests may leave it stopped."""
    if own_suite.process is None or not own_suite.process.running:
        own_suite.start()
    return own_suite


@pytest.fixture
def alice(restarted: SuiteProcess) -> Iterator[Caller]:
    """An editor of the group "sales"."""
    with restarted.caller(ALICE) as caller:
        yield caller


def open_to_others(directory: Path) -> set[Path]:
    """Return what other users have rights to."""
    return {path for path in directory.rglob("*") if path.exists() and path.lstat().st_mode & 0o077}


def test_an_execution_and_its_watch_go_on_after_the_whole_suite_was_killed(
    scene: Scene, alice: Caller, restarted: SuiteProcess
) -> None:
    execution = scene.start_and_hang_in_second(alice.orchestrator)
    events: list[ExecutionEvent] = []

    # Fills the list event by event.
    watcher = threading.Thread(target=lambda: events.extend(alice.orchestrator.watch(execution.id)), daemon=True)
    watcher.start()
    wait_until(lambda: len(events) > 3, "the watch has begun")

    restarted.kill()
    assert open_to_others(restarted.data_dir) == set()
    for path in restarted.data_dir.rglob("*"):
        # As a copy by another user's umask leaves them.
        path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
    restarted.start()
    watcher.join(WAIT_SECONDS)

    assert open_to_others(restarted.data_dir) == set()
    assert kinds(events)[-1] == "execution_succeeded"
    sequences = [event.sequence for event in events]
    assert sequences == sorted(set(sequences)), "each event once, in order, whatever happened to the server"
    assert set(stored_sequences(restarted, execution)) <= set(sequences)
    assert len(scene.calls("first")) == 1
    assert len(scene.calls("third")) == 1
    assert kinds(events).count("task_completed") == 3


@pytest.mark.large
def test_a_stream_of_an_agent_goes_on_after_its_server_was_killed(
    restarted: SuiteProcess, scene: Scene, alice: Caller
) -> None:
    scene.answers("first", "First result.")
    scene.answers("second", "Second result.", hang=True, times=1)
    scene.answers("second", "Second result.")
    published = A2ASpec(published=True, text_input="topic", all_results=True)
    spec = scene.crew("first", "second", a2a=published)
    spec.tasks[0].description += " about {topic}"
    crew = alice.orchestrator.crews.CreateCrew(CreateCrewRequest(spec=spec)).crew
    listed = alice.orchestrator.crews.ListPublications(ListPublicationsRequest()).publications
    tenant = next(one.tenant for one in listed if one.crew_id == crew.id)
    message = pb.Message(message_id="one", role=pb.ROLE_USER, parts=[pb.Part(text="ships")])
    told: list[pb.StreamResponse] = []
    with restarted.channel("orchestrator") as channel:
        sending = pb.SendMessageRequest(tenant=tenant, message=message)
        stream = _stub(channel).SendStreamingMessage(sending, metadata=_a2a_metadata())
        task = next(stream).task
        for response in stream:
            told.append(response)
            # Looking a name up by [] would add it.
            name = response.status_update.metadata.fields.get("coxswain/task")
            if name is not None and name.string_value == "second":
                break
        scene.wait_until_hanging("second")
        restarted.kill()
        with pytest.raises(grpc.RpcError) as cut:
            told.extend(stream)
        assert cast("grpc.Call", cut.value).code() == grpc.StatusCode.UNAVAILABLE
    restarted.start()
    with restarted.channel("orchestrator") as channel:
        stub, wanted = _stub(channel), pb.SubscribeToTaskRequest(id=task.id)
        told.extend(stub.SubscribeToTask(wanted, metadata=_a2a_metadata(_sequence(told[-1]))))
        all_of_it = list(stub.SubscribeToTask(wanted, metadata=_a2a_metadata(0)))
    began = int(task.metadata.fields["coxswain/sequence"].number_value)
    assert told == [one for one in all_of_it if _sequence(one) > began]
    artifacts = [one.artifact_update.artifact for one in told if one.HasField("artifact_update")]
    assert [(one.artifact_id, one.parts[0].text) for one in artifacts] == [
        ("first", "First result."),
        ("result", "Second result."),
    ]
    assert told[-1].status_update.status.state == pb.TASK_STATE_COMPLETED
    assert len(scene.calls("first")) == 1


def _stub(channel: grpc.Channel) -> Any:
    return cast("Any", A2AServiceStub)(channel)


def _a2a_metadata(after: int | None = None) -> list[tuple[str, str]]:
    metadata = [("authorization", f"Bearer {ALICE}"), ("a2a-version", "1.0")]
    if after is not None:
        metadata += [
            ("a2a-extensions", "https://example.com/coxswain/a2a/resume/v1"),
            ("x-after-sequence", str(after)),
        ]
    return metadata


def _sequence(response: pb.StreamResponse) -> int:
    update = response.artifact_update if response.HasField("artifact_update") else response.status_update
    return int(update.metadata.fields["coxswain/sequence"].number_value)


def test_webhooks_get_every_committed_event_in_order_although_sender_and_receiver_fail_together(
    restarted: SuiteProcess, scene: Scene, alice: Caller
) -> None:
    client = alice.orchestrator
    early: list[dict[str, Any]] = []
    receiver = WebhookReceiver()
    receiver.fail_each = 5

    def arrived(body: dict[str, Any]) -> None:
        if not _is_stored(restarted, body["event"]["executionId"], int(body["event"]["sequence"])):
            early.append(body)

    receiver.on_arrival = arrived
    with restarted.caller("dev:ann:sales=admin") as admin:
        webhooks = admin.orchestrator.webhooks
        with receiver:
            receiver.gate = Gate()
            made = webhooks.CreateWebhook(CreateWebhookRequest(webhook=Webhook(url=receiver.url))).webhook
            runs = [scene.start_and_hang_in_second(client)]
            for _ in range(2):
                runs.append(client.start(scene.crew("first", "second")))
                finish(client, runs[-1])
            receiver.changes.wait_sync(lambda: receiver.held > 0)
            # What it has sent has no answer when it dies, and nobody listens any more when it is back.
            _kill_sender(restarted)
        restarted.start()
        for _ in range(2):
            runs.append(client.start(scene.crew("first", "second")))
            finish(client, runs[-1])
        finish(client, runs[0])
        wait_until(
            lambda: len([one for one in _deliveries(webhooks, made) if one.attempts > 1]) == len(runs),
            "the first event of each execution that is left was tried in vain, more than once",
        )
        assert {one.last_status_code for one in _deliveries(webhooks, made)} == {0}
        _kill_sender(restarted)
        receiver.gate = None
        with receiver:
            restarted.start()
            told = {(execution.id, each): execution for execution in runs for each in _shown(client, execution)}
            receiver.changes.wait_sync(lambda: {each.event for each in receiver.taken()} >= told.keys(), 120)
            wait_until(lambda: not _deliveries(webhooks, made), "nothing is left to be sent")
        assert early == []
        assert {each.event for each in receiver.posted} == told.keys()
        for execution in runs:
            of_one = [each for each in receiver.posted if each.event[0] == execution.id]
            for answered in ({204}, {204, 503}):
                first_times = dict.fromkeys(each.event[1] for each in of_one if each.status in answered)
                assert list(first_times) == _shown(client, execution)
        assert {each.status for each in receiver.posted} == {204, 503}
        keys = {each.event: each.headers["Idempotency-Key"] for each in receiver.posted}
        assert all(keys[each.event] == each.headers["Idempotency-Key"] for each in receiver.posted)
        webhooks.DeleteWebhook(DeleteWebhookRequest(id=made.id))


def _kill_sender(suite: SuiteProcess) -> None:
    """SIGKILL it; its claim is as old as if it had run out when the next one starts."""
    suite.kill()
    with contextlib.closing(sqlite3.connect(suite.data_dir / "orchestrator.db")) as rows, rows:
        rows.execute("UPDATE webhooks SET sender_until = '2000-01-01 00:00:00.000000'")


def _is_stored(suite: SuiteProcess, execution_id: str, sequence: int) -> bool:
    query = select(execution_events.c.sequence).where(
        execution_events.c.execution_id == execution_id, execution_events.c.sequence == sequence
    )
    return bool(suite.rows("orchestrator", query))


def _deliveries(webhooks: Any, webhook: Webhook) -> list[WebhookDelivery]:
    """Return what is still to be sent."""
    pending = WebhookDeliveryState.WEBHOOK_DELIVERY_STATE_PENDING
    request = ListWebhookDeliveriesRequest(webhook_id=webhook.id, state=pending, page_size=1000)
    return list(webhooks.ListWebhookDeliveries(request).deliveries)


def _shown(client: Client, execution: Execution) -> list[int]:
    """Return the sequences of the events of an execution that webhooks are told of."""
    kinds_shown = ExecutionEventKind.keys()
    return [
        event.sequence
        for event in finish(client, execution)
        if f"EXECUTION_EVENT_KIND_{(event.WhichOneof('event') or '').upper()}" in kinds_shown
    ]


@pytest.mark.parametrize("group", [False, True], ids=["process", "process group"])
def test_sigterm_drains_and_what_was_running_goes_on_after_the_next_start(
    scene: Scene, alice: Caller, restarted: SuiteProcess, group: bool
) -> None:
    execution = scene.start_and_hang_in_second(alice.orchestrator)
    process = restarted.process
    assert process is not None
    below = descendants(process.pid)

    process.signal(signal.SIGTERM, group=group)

    assert process.wait() == 0
    assert "draining" in process.output
    assert "worker_hands_over" in process.output, "the host gave its work back instead of being killed over it"
    wait_gone(below)
    restarted.start()
    events = finish(alice.orchestrator, execution)
    assert kinds(events)[-1] == "execution_succeeded"
    assert len(scene.calls("first")) == 1
    assert kinds(events).count("task_completed") == 3


def test_work_that_ends_within_the_drain_is_stored_before_the_suite_stops(
    scene: Scene, alice: Caller, restarted: SuiteProcess
) -> None:
    scene.answers("only", "In time.", hang=True, times=1)
    execution = alice.orchestrator.start(scene.crew("only"))
    scene.wait_until_hanging("only")
    process = restarted.process
    assert process is not None

    process.signal(signal.SIGTERM)
    process.wait_for_line("draining")
    scene.llm.release()

    assert process.wait() == 0
    (row,) = stored_state(restarted, execution)["executions"]
    assert row["state"] == "SUCCEEDED"
    assert row["result"]["text"] == "In time."
    assert row["epoch"] == 1, "nobody else had to go on with it"
    assert len(scene.calls("only")) == 1


def test_an_installation_restored_from_a_backup_finishes_what_waited_for_a_person(
    scene: Scene, alice: Caller, restarted: SuiteProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.answers("draft", "A draft.")
    scene.answers("publish", "Published.")
    crew = scene.crew("draft", "publish")
    crew.tasks[0].human_approval = True
    client = alice.orchestrator
    execution = client.start(crew)
    wait_until(lambda: bool(get(client, execution).open_question_ids), "a person is asked")
    monkeypatch.setenv("COXSWAIN_DATA_DIR", str(restarted.data_dir))

    assert backup.main(["backup", str(tmp_path / "copy")]) == 0
    restarted.kill()
    restarted.data_dir.rename(tmp_path / "lost")
    assert backup.main(["restore", str(tmp_path / "copy")]) == 0
    restarted.start()

    (question,) = open_questions(client, execution)
    accept(client, question)
    assert kinds(finish(client, execution))[-1] == "execution_succeeded"
    assert get(client, execution).result.text == "Published."
    assert len(scene.calls("draft")) == 1


def _started_by(client: Client, schedule: Schedule) -> list[Execution]:
    return list(client.executions.ListExecutions(ListExecutionsRequest(schedule_id=schedule.id)).executions)


def test_a_schedule_that_came_due_while_nothing_ran_starts_one_execution_however_often_all_is_killed(
    scene: Scene, alice: Caller, restarted: SuiteProcess
) -> None:
    scene.answers("only", "Done by the clock.")
    client = alice.orchestrator
    crew = client.crews.CreateCrew(CreateCrewRequest(spec=scene.crew("only"))).crew
    planned = Schedule(name=scene.mark, cron="0 0 1 1 *", start=StartExecutionRequest(crew_id=crew.id))
    schedule = client.schedules.CreateSchedule(CreateScheduleRequest(schedule=planned)).schedule
    restarted.kill()
    missed = utc_now() - timedelta(days=2)
    restarted.change(
        "orchestrator", schedules.update().where(schedules.c.id == schedule.id).values(next_fire_at=missed)
    )

    restarted.start()
    wait_until(lambda: len(_started_by(client, schedule)) == 1, "the missed run is caught up with")
    restarted.kill()
    restarted.start()

    (execution,) = _started_by(client, schedule)
    assert kinds(finish(client, execution))[-1] == "execution_succeeded"
    assert get(client, execution).state == SUCCEEDED
    assert len(scene.calls("only")) == 1
    (row,) = restarted.rows("orchestrator", schedules.select().where(schedules.c.id == schedule.id))
    assert (row["last_fire_at"], row["last_execution_id"]) == (missed, execution.id)
    assert row["next_fire_at"] > utc_now()
    client.schedules.DeleteSchedule(DeleteScheduleRequest(id=schedule.id))
