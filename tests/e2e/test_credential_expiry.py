"""What becomes of an execution whose user's token expires while it runs: real services, a real worker, a workspace.

The workspace lets in every identity that could be taken instead of the user's: the operator's token in the environment
and the group's stored one.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import grpc
import pytest

from coxswain.auth.v1.delegation_pb2 import (
    ON_CREDENTIAL_EXPIRY_FAIL,
    ON_CREDENTIAL_EXPIRY_PARK,
    ON_CREDENTIAL_EXPIRY_USE_GROUP_IDENTITY,
    OnCredentialExpiry,
)
from coxswain.auth.v1.group_pb2 import SetMemberRequest
from coxswain.auth.v1.principal_pb2 import WhoAmIRequest
from coxswain.auth.v1.secret_pb2 import PutSecretRequest
from coxswain.common.v1.access_pb2 import ROLE_EDITOR, ROLE_OPERATOR
from coxswain.orchestrator.v1.execution_pb2 import (
    CancelExecutionRequest,
    Execution,
    ExecutionState,
    StartExecutionRequest,
)
from services.common.identity.service_identity import ServiceIdentity
from services.common.settings import PARTS, SERVICES
from tests.e2e.support import CANCELLED, SUCCEEDED, Scene, finish, get, kinds, outputs, refused
from tests.support.databricks_identity import WORKSPACE_ID, User
from tests.support.databricks_workspace import DatabricksWorkspace
from tests.support.installation import Caller, crew_processes, wait_until
from tests.support.suite_process import SuiteProcess

MODEL = "databricks/databricks-meta-llama-3-3-70b-instruct"
WAITING = ExecutionState.EXECUTION_STATE_WAITING_FOR_CREDENTIAL


@dataclass
class World:
    """An installation whose callers are people of a workspace. Ann is an admin, Bob an editor, Olga an operator."""

    suite: SuiteProcess
    workspace: DatabricksWorkspace
    people: dict[str, User]
    group_token: str
    """The token the group has stored."""

    def token(self, name: str) -> str:
        """Return a fresh token of somebody."""
        return self.workspace.identity.mint(self.people[name])

    def expire_all_tokens(self) -> None:
        """Let the time of every token that auth knows be over."""
        with closing(sqlite3.connect(self.suite.data_dir / "auth.db", timeout=60)) as database, database:
            database.execute("UPDATE credential_sessions SET expires_at = '2001-01-01 00:00:00.000000'")

    def working(self) -> bool:
        """Whether a worker host has a crew process."""
        return any(crew_processes(host) for host in self.suite.worker_hosts())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("workspace")
    with DatabricksWorkspace() as workspace:
        identity = workspace.identity
        people = {name: identity.add_user(f"{name}@example.com") for name in ("ann", "bob", "olga", "operator", "bot")}
        for service in (*SERVICES, *PARTS):
            ServiceIdentity.load(directory / "data" / "keys", service, create=True)
        environment = {
            "COXSWAIN_IDENTITY_MODE": "databricks",
            "COXSWAIN_AUTH_DATABRICKS_HOSTS": workspace.url,
            "COXSWAIN_AUTH_DATABRICKS_AUDIENCES": WORKSPACE_ID,
            "COXSWAIN_AUTH_KEY_RING": "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "COXSWAIN_AUTH_BOOTSTRAP_ADMIN": f"{identity.issuer}|ann@example.com",
            "COXSWAIN_AUTH_BOOTSTRAP_GROUP": "sales",
            "COXSWAIN_AUTH_SHARED_CREDENTIAL_GROUPS": "*",
            "COXSWAIN_AUTH_CREDENTIAL_SECONDS": "0",
            "DATABRICKS_HOST": workspace.url,
            "DATABRICKS_TOKEN": identity.add_pat(people["operator"]),
        }
        with SuiteProcess(directory / "data", workers=1, environment=environment).running() as suite:
            world = World(suite, workspace, people, identity.add_pat(people["bot"]))
            with suite.caller(world.token("ann")) as ann:
                for name, role in (("bob", ROLE_EDITOR), ("olga", ROLE_OPERATOR)):
                    subject = f"{identity.issuer}|{name}@example.com"
                    ann.auth.groups.SetMember(SetMemberRequest(subject=subject, role=role))
                    with suite.caller(world.token(name), group="sales") as invited:
                        invited.auth.auth.WhoAmI(WhoAmIRequest())
                ann.auth.secrets.PutSecret(
                    PutSecretRequest(
                        name="databricks/api-key", value=world.group_token, allowed_origins=[workspace.url]
                    )
                )
            yield world


@pytest.fixture
def scene(world: World) -> Iterator[Scene]:
    world.workspace.llm.clear_rules()
    world.workspace.llm.clear_log()
    yield Scene(world.workspace.llm)
    world.workspace.llm.release()


def start(scene: Scene, caller: Caller, on_expiry: OnCredentialExpiry.ValueType) -> Execution:
    """Start three tasks of which the model keeps the second one waiting."""
    scene.answers("first", "First result.")
    scene.answers("second", "Second result.", hang=True, times=1)
    scene.answers("third", "Third result.")
    crew = caller.orchestrator.apply_crew(scene.crew("first", "second", "third", model=MODEL)).crew
    request = StartExecutionRequest(crew_id=crew.id, on_credential_expiry=on_expiry)
    return caller.orchestrator.executions.StartExecution(request).execution


def start_and_expire(world: World, scene: Scene, token: str, on_expiry: OnCredentialExpiry.ValueType) -> Execution:
    """Start three tasks and let the token expire during the second one."""
    with world.suite.caller(token) as caller:
        execution = start(scene, caller, on_expiry)
    scene.wait_until_hanging("second")
    world.expire_all_tokens()
    scene.llm.release()
    return execution


def parked(world: World, caller: Caller, execution: Execution) -> None:
    """Wait until the execution waits for a credential."""
    wait_until(lambda: get(caller.orchestrator, execution).state == WAITING, "the execution is parked")


def test_an_execution_waits_for_its_user_and_goes_on_with_their_fresh_token(world: World, scene: Scene) -> None:
    old = world.token("ann")
    execution = start_and_expire(world, scene, old, ON_CREDENTIAL_EXPIRY_PARK)
    fresh = world.token("ann")

    with world.suite.caller(fresh) as ann, world.suite.caller(world.token("bob")) as bob:
        parked(world, ann, execution)
        wait_until(lambda: not world.working(), "no worker is held")
        assert scene.calls("third") == []
        with refused(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
            bob.orchestrator.renew(execution.id)
        assert get(ann.orchestrator, execution).state == WAITING
        ann.orchestrator.renew(execution.id)
        events = finish(ann.orchestrator, execution)
        ended = get(ann.orchestrator, execution)
        texts = [run.output.text for run in outputs(ann.orchestrator, execution)]

    assert (ended.state, ended.claims) == (SUCCEEDED, 2)
    assert texts == ["First result.", "Second result.", "Third result."]
    (told,) = [event.execution_parked for event in events if event.HasField("execution_parked")]
    assert told.state == WAITING
    assert kinds(events)[-1] == "execution_succeeded"
    bearers = {name: [call.bearer for call in scene.calls(name)] for name in ("first", "second", "third")}
    assert bearers == {"first": [old], "second": [old], "third": [fresh]}, "nothing is repeated, nobody else is used"


def test_a_renewal_with_a_token_that_has_expired_too_is_refused(world: World, scene: Scene) -> None:
    execution = start_and_expire(world, scene, world.token("ann"), ON_CREDENTIAL_EXPIRY_PARK)

    with world.suite.caller(world.token("ann")) as ann:
        parked(world, ann, execution)
        world.expire_all_tokens()
        with refused(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_EXPIRED"):
            ann.orchestrator.renew(execution.id)
    with world.suite.caller(world.token("ann")) as ann:
        assert get(ann.orchestrator, execution).state == WAITING
        ann.orchestrator.executions.CancelExecution(CancelExecutionRequest(id=execution.id))
        assert get(ann.orchestrator, execution).state == CANCELLED
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "EXECUTION_STATE"):
            ann.orchestrator.renew(execution.id)


def test_an_execution_that_is_to_fail_then_fails_with_the_reason(world: World, scene: Scene) -> None:
    execution = start_and_expire(world, scene, world.token("ann"), ON_CREDENTIAL_EXPIRY_FAIL)

    with world.suite.caller(world.token("ann")) as ann:
        finish(ann.orchestrator, execution)
        ended = get(ann.orchestrator, execution)

    assert ended.state == ExecutionState.EXECUTION_STATE_FAILED
    assert ended.error.reason == "CREDENTIAL_EXPIRED"
    assert scene.calls("third") == []


def test_an_execution_goes_on_as_its_group_where_its_starter_chose_that(world: World, scene: Scene) -> None:
    old = world.token("bob")
    execution = start_and_expire(world, scene, old, ON_CREDENTIAL_EXPIRY_USE_GROUP_IDENTITY)

    with world.suite.caller(world.token("bob")) as bob:
        finish(bob.orchestrator, execution)
        ended = get(bob.orchestrator, execution)

    assert (ended.state, ended.claims) == (SUCCEEDED, 1)
    bearers = {name: [call.bearer for call in scene.calls(name)] for name in ("first", "second", "third")}
    assert bearers == {"first": [old], "second": [old], "third": [world.group_token]}


def test_an_operator_cannot_choose_to_go_on_as_the_group(world: World, scene: Scene) -> None:
    with world.suite.caller(world.token("ann")) as ann:
        crew = ann.orchestrator.apply_crew(scene.crew("first", model=MODEL)).crew
    with (
        world.suite.caller(world.token("olga")) as olga,
        refused(grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"),
    ):
        olga.orchestrator.executions.StartExecution(
            StartExecutionRequest(crew_id=crew.id, on_credential_expiry=ON_CREDENTIAL_EXPIRY_USE_GROUP_IDENTITY)
        )
    assert scene.llm.calls == []
