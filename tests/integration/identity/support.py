"""All services before a workspace, with everything in reach that could be used instead of a caller's own token."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import SecretStr

from coxswain.auth.v1 import group_pb2, principal_pb2, secret_pb2
from coxswain.auth.v1.auth_service_pb2_grpc import AuthServiceStub
from coxswain.auth.v1.group_service_pb2_grpc import GroupServiceStub
from coxswain.auth.v1.secret_service_pb2_grpc import SecretServiceStub
from coxswain.common.v1 import access_pb2
from coxswain.memory.v1 import memory_pb2, record_pb2
from coxswain.memory.v1.memory_service_pb2_grpc import MemoryServiceStub
from coxswain.models.v1 import inference_pb2
from coxswain.models.v1.inference_service_pb2_grpc import InferenceServiceStub
from coxswain.orchestrator.v1 import crew_pb2
from coxswain.orchestrator.v1.crew_service_pb2_grpc import CrewServiceStub
from services.auth.settings import AuthSettings
from services.common.db.database import Database
from services.common.grpc.call import acting_as
from services.common.identity.service_identity import ServiceIdentity
from services.common.ids import new_id
from services.common.settings import SERVICES
from tests.support.databricks_identity import WORKSPACE_ID
from tests.support.databricks_workspace import DatabricksWorkspace
from tests.support.harness import Harness, serve_services

CHAT = "databricks/databricks-meta-llama-3-3-70b-instruct"
EMBEDDINGS = "databricks/databricks-gte-large-en"
PRINCIPAL_SECONDS = 2.0
CREDENTIAL_SECONDS = 2.0
KEY_RING = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
API_KEY = "databricks/api-key"


@dataclass
class World:
    """What a test needs of it. Ann is an admin of the group "sales"."""

    harness: Harness
    workspace: DatabricksWorkspace
    operators_token: str
    groups_token: str

    def token(self, name: str, **claims: Any) -> str:
        """Return a fresh token of somebody in the workspace; `claims` as of `DatabricksIdentity.mint`."""
        return self.workspace.identity.mint(self.workspace.identity.add_user(f"{name}@example.com"), **claims)

    def subject(self, name: str) -> str:
        return f"{self.workspace.identity.issuer}|{name}@example.com"

    def channel(self, token: str, group: str = "") -> grpc.aio.Channel:
        """Return a channel that sends the token as a proxy of the platform does."""
        channel: grpc.aio.Channel = self.harness.channel("", group=group, headers={"x-forwarded-access-token": token})
        return channel

    def groups(self, token: str, group: str = "") -> Any:
        return GroupServiceStub(self.channel(token, group))

    def secrets(self, token: str, group: str = "") -> Any:
        return SecretServiceStub(self.channel(token, group))

    def inference(self, token: str, group: str = "") -> Any:
        return InferenceServiceStub(self.channel(token, group))

    def memory(self, token: str) -> Any:
        return MemoryServiceStub(self.channel(token))

    async def add_member(self, name: str, role: access_pb2.Role.ValueType = access_pb2.ROLE_EDITOR) -> None:
        """Make somebody a member of "sales", who accepts it."""
        request = group_pb2.SetMemberRequest(subject=self.subject(name), role=role)
        await self.groups(self.token("ann")).SetMember(request)
        await AuthServiceStub(self.channel(self.token(name), "sales")).WhoAmI(principal_pb2.WhoAmIRequest())

    async def add_group(self, admin: str) -> str:
        """Make a group with an admin of its own and return its id."""
        request = group_pb2.CreateGroupRequest(display_name=admin, admin_subject=self.subject(admin))
        group: str = (await self.groups(self.token("ann")).CreateGroup(request)).group.id
        return group

    async def store_token(self, token: str, value: str) -> None:
        """Store the API key of the group whose admin sends `token`."""
        await self.secrets(token).PutSecret(
            secret_pb2.PutSecretRequest(name=API_KEY, value=value, allowed_origins=[self.workspace.url])
        )


def namespace(crew: str = "crew") -> memory_pb2.Namespace:
    return memory_pb2.Namespace(memory_id=crew, kind=record_pb2.MEMORY_KIND_UNIFIED)


def search(text: str, crew: str = "crew") -> memory_pb2.SearchRecordsRequest:
    """Return a search whose text the models service has to embed."""
    return memory_pb2.SearchRecordsRequest(namespace=namespace(crew), text=text)


def save(text: str, crew: str = "crew") -> memory_pb2.SaveRecordsRequest:
    """Return a memory whose text the workspace embeds."""
    record = record_pb2.Record(unified=record_pb2.UnifiedRecord(content=text))
    return memory_pb2.SaveRecordsRequest(namespace=namespace(crew), records=[record], embedding_model=EMBEDDINGS)


def question(text: str) -> inference_pb2.CompleteRequest:
    """Return a question to a model of the workspace."""
    part = inference_pb2.ContentPart(text=text)
    message = inference_pb2.Message(role=inference_pb2.MESSAGE_ROLE_USER, content=[part])
    return inference_pb2.CompleteRequest(completion=inference_pb2.Completion(model=CHAT, messages=[message]))


async def add_crew(channel: grpc.aio.Channel) -> str:
    """Store a crew and return its id."""
    spec = crew_pb2.CrewSpec(
        name=f"brief {new_id()}",
        agents=[crew_pb2.AgentSpec(name="reader", role="Reader", goal="Read")],
        tasks=[crew_pb2.TaskSpec(name="read", description="Read", expected_output="Notes", agent="reader")],
    )
    crew_id: str = (await CrewServiceStub(channel).CreateCrew(crew_pb2.CreateCrewRequest(spec=spec))).crew.id
    return crew_id


def ask_as(world: World, principal: str) -> Callable[[], Awaitable[str | None]]:
    """Return a call of a model through the internal listener, as a worker makes it; it returns the credential used."""
    stub: Any = InferenceServiceStub(world.harness.peers("orchestrator").channel("models"))

    async def ask() -> str | None:
        with acting_as(principal):
            await stub.Complete(question("What is known?"))
        return world.workspace.llm.calls[-1].bearer

    return ask


@contextlib.asynccontextmanager
async def database_of(harness: Harness, database_url: str, service: str) -> AsyncIterator[Database]:
    """Open the database of a service; `database_url` as in `serve_services`."""
    url = database_url if database_url.startswith("postgresql") else f"sqlite:///{harness.data_dir / service}.db"
    database = Database(url, service)
    try:
        yield database
    finally:
        await database.close()


@contextlib.asynccontextmanager
async def serve_world(
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    database_url: str = "",
    service_principal: bool,
    settings: Mapping[str, Any] | None = None,
) -> AsyncIterator[World]:
    """Serve auth, models, memory and orchestrator; `service_principal`: whether one of the operator's is there too.

    It goes before what a group has stored. `settings` are those of other services than auth.
    """
    async with DatabricksWorkspace() as workspace:
        workspace.llm.dimensions["databricks-gte-large-en"] = 1024
        identity = workspace.identity
        operators_token = identity.add_pat(identity.add_user("operator@example.com"))
        groups_token = identity.add_pat(identity.add_user("bot@example.com"))
        monkeypatch.setenv("DATABRICKS_HOST", workspace.url)
        monkeypatch.setenv("DATABRICKS_TOKEN", operators_token)
        if service_principal:
            identity.add_service_principal("cid", "client-secret")
            monkeypatch.setenv("DATABRICKS_CLIENT_ID", "cid")
            monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", "client-secret")
        for service in SERVICES:
            ServiceIdentity.load(data_dir / "keys", service, create=True)
        auth = AuthSettings(
            key_ring=SecretStr(KEY_RING),
            databricks_audiences=(WORKSPACE_ID,),
            bootstrap_admin=f"{workspace.url}/oidc|ann@example.com",
            bootstrap_group="sales",
            shared_credential_groups=("*",),
            credential_seconds=CREDENTIAL_SECONDS,
        )
        async with serve_services(
            data_dir,
            "models",
            "memory",
            "orchestrator",
            database_url=database_url,
            settings={"auth": auth, **(settings or {})},
            identity_mode="databricks",
            principal_cache_seconds=PRINCIPAL_SECONDS,
        ) as harness:
            world = World(harness, workspace, operators_token, groups_token)
            await world.store_token(world.token("ann"), groups_token)
            yield world
