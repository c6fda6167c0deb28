"""Marked secrets, stored and used through every RPC of the product, are found nowhere but where they belong.

One story is played on a running suite and a worker host, at log level DEBUG, in a workspace; then everything that came
back, was logged, was stored or is readable of a process is searched.
"""

import base64
import contextlib
import json
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import quote

import grpc
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.identity.service_identity import ServiceIdentity
from services.common.settings import PARTS
from tests.e2e.support import Scene
from tests.support.child_process import ChildProcess, descendants, free_port
from tests.support.databricks_http import ApiFault
from tests.support.databricks_identity import WORKSPACE_ID, User
from tests.support.databricks_workspace import DatabricksWorkspace
from tests.support.every_rpc import Caller, callers_of, every_rpc, is_internal, service_of
from tests.support.installation import SERVICES, crew_processes
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import Fault, Reply
from tests.support.marked_secrets import MarkedSecrets
from tests.support.otlp_receiver import OtlpReceiver
from tests.support.private_files import private_file
from tests.support.suite_process import SuiteProcess

# None has a form that logs are cleaned of: what is not told needs no cleaning. All have characters that URLs encode.
OPENAI_KEY = "marked+provider/key=6fd1c2"
GATEWAY_KEY = "marked+second/provider/key=77aa01"
PAT = "marked+personal/token=83ab55"
SHAPED_PAT = "dapi6d61726b65642d736861706564"
"""Only put where an id belongs: what is no known form of a token is taken for a mistyped id, and repeated."""
API_KEY = "marked+api/key=5c0d9e"
TOOL_KEY = "marked+tool/key=31be90"
CLIENT_SECRET = "marked+client/secret=c01e77"
OPERATORS_TOKEN = "marked+operators/token=19dd40"
OPERATORS_OPENAI_KEY = "marked+operators/provider/key=4be2"
OPERATORS_CLIENT_SECRET = "marked+operators/client/secret=02f8"
BAIT = "marked+bait=9a1b3c"
RING = base64.b64encode(b"marked ring key of thirty-two by").decode()

OPENAI, DATABRICKS = "openai/gpt-4.1-mini", "databricks/databricks-meta-llama-3-3-70b-instruct"
INDEX = "main.memories.unified"
_URL = {"paths": ["url"]}
GIVE_SECRETS = {
    "AuthService.ResolveCredential": "token",
    "ServiceTokenService.CreateServiceToken": "token",
    "WebhookService.CreateWebhook": "signing_key",
    "WebhookService.RotateWebhookSigningKey": "signing_key",
    "ExecutionService.StartExecution": "webhook_signing_key",
    "AuthService.ExchangeToken": "principal_token",
    "AuthService.IssueExecutionPrincipal": "principal_token",
}
"""The only methods that give a secret, each to whom it belongs, and the field that holds it."""


@dataclass
class World:
    """An installation, its surroundings, and what was seen of it."""

    suite: SuiteProcess
    worker: ChildProcess
    workspace: DatabricksWorkspace
    llm: LlmEmulator
    caller: Caller
    ann: User
    token: str
    marked: MarkedSecrets
    services: Mapping[str, ServiceIdentity]
    metrics_port: int
    collector: OtlpReceiver
    group: str = "house"
    principal: str = ""
    process_secrets: list[str] = field(default_factory=list)
    """Secrets found in what can be read of crew processes."""
    crews_seen: int = 0
    found_in_open_files: dict[str, list[str]] = field(default_factory=dict)

    def user(self) -> list[tuple[str, str]]:
        return [("x-forwarded-access-token", self.token), ("x-group-id", self.group)]

    def service(self, name: str) -> list[tuple[str, str]]:
        """What a service sends to the one that serves method `name`, on behalf of Ann."""
        method = every_rpc()[name]
        caller = callers_of(method)[0]
        return [
            ("x-coxswain-service", self.services[caller].token_for(service_of(method))),
            ("x-coxswain-principal", self.principal),
            ("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"),
        ]

    def metadata(self, name: str) -> list[tuple[str, str]]:
        return self.service(name) if is_internal(every_rpc()[name]) else self.user()

    def all(self, name: str, /, *, take: int = 0, **fields: Any) -> list[Any]:
        """Call a method that has to succeed; return its answers."""
        answers = self.caller.call(name, self.metadata(name), self.caller.message(name, **fields), take=take)
        assert isinstance(answers, list), f"{name}: {answers}"
        return answers

    def ok(self, name: str, /, **fields: Any) -> Any:
        """Call a method that has to succeed; return its answer, the last one of a stream."""
        return self.all(name, **fields)[-1]

    def no(self, name: str, /, **fields: Any) -> None:
        """Call a method that has to fail."""
        answers = self.caller.call(name, self.metadata(name), self.caller.message(name, **fields))
        assert isinstance(answers, str), f"{name} succeeded: {answers}"

    @property
    def processes(self) -> tuple[ChildProcess, ChildProcess]:
        assert self.suite.process is not None
        return self.suite.process, self.worker


@pytest.fixture(scope="module")
def marked() -> MarkedSecrets:
    secrets = MarkedSecrets()
    for name, value in globals().items():
        if isinstance(value, str) and value.startswith("marked+"):
            secrets.add(name, value)
    secrets.add("SHAPED_PAT", SHAPED_PAT)
    secrets.add("RING", RING)
    secrets.add("RING (bytes)", base64.b64decode(RING).decode())
    return secrets


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, marked: MarkedSecrets) -> Iterator[World]:
    """A world in which the whole story has been played, and everything has ended in good order."""
    directory = tmp_path_factory.mktemp("marked")
    keys = directory / "data" / "keys"
    metrics_port = free_port()
    with (
        contextlib.ExitStack() as stack,
        DatabricksWorkspace() as workspace,
        LlmEmulator(accepted_keys=[OPENAI_KEY, GATEWAY_KEY, OPERATORS_OPENAI_KEY]) as llm,
        OtlpReceiver() as collector,
    ):
        workspace.llm.dimensions["databricks-gte-large-en"] = 1024
        llm.dimensions["text-embedding-3-small"] = 1536
        identity = workspace.identity
        ann, bot = identity.add_user("ann@example.com"), identity.add_user("bot@example.com")
        for pat in (PAT, API_KEY, OPERATORS_TOKEN):
            identity.add_pat(bot, pat)
        identity.add_service_principal("cid", CLIENT_SECRET)
        identity.add_service_principal("operators-cid", OPERATORS_CLIENT_SECRET)
        suite = SuiteProcess(
            directory / "data",
            workers=0,
            environment=_environment(workspace, llm, metrics_port=metrics_port) | collector.environment,
        )
        services = {name: ServiceIdentity.load(keys, name, create=True) for name in (*SERVICES, *PARTS)}
        stack.enter_context(suite.running())
        socket, tools_socket = suite.internal_addresses()
        worker = stack.enter_context(_worker(suite, socket, tools_socket))
        token = marked.add("user's token", identity.mint(ann))
        internal = stack.enter_context(grpc.insecure_channel(socket))
        gateway = stack.enter_context(grpc.insecure_channel(tools_socket))
        caller = Caller(
            stack.enter_context(grpc.insecure_channel(suite.address("auth"))),
            {**dict.fromkeys(SERVICES, internal), "tools": gateway},
            GIVE_SECRETS,
        )
        world = World(suite, worker, workspace, llm, caller, ann, token, marked, services, metrics_port, collector)
        _play(world)
        for process in reversed(world.processes):
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
        yield world


def _environment(workspace: DatabricksWorkspace, llm: LlmEmulator, *, metrics_port: int) -> dict[str, str]:
    networks = '["127.0.0.0/8"]'
    return {
        "COXSWAIN_IDENTITY_MODE": "databricks",
        "COXSWAIN_LOG_LEVEL": "DEBUG",
        "COXSWAIN_DRAIN_SECONDS": "5",
        "COXSWAIN_METRICS_PORT": str(metrics_port),
        "COXSWAIN_AUTH_DATABRICKS_AUDIENCES": WORKSPACE_ID,
        "COXSWAIN_AUTH_KEY_RING": f"k1:{base64.b64encode(bytes(range(32))).decode()},k2:{RING}",
        "COXSWAIN_AUTH_BOOTSTRAP_ADMIN": f"{workspace.identity.issuer}|ann@example.com",
        "COXSWAIN_AUTH_BOOTSTRAP_GROUP": "house",
        "COXSWAIN_AUTH_SHARED_CREDENTIAL_GROUPS": "house",
        "COXSWAIN_AUTH_CREDENTIAL_SECONDS": "0",
        "COXSWAIN_AUTH_EGRESS_ALLOWED_NETWORKS": networks,
        "COXSWAIN_MODELS_EGRESS_ALLOWED_NETWORKS": networks,
        "COXSWAIN_ORCHESTRATOR_EGRESS_ALLOWED_NETWORKS": networks,
        "COXSWAIN_TOOLS_EGRESS_ALLOWED_NETWORKS": networks,
        "COXSWAIN_MODELS_LITELLM_BASE_URLS": json.dumps({"together_ai": f"{llm.url}/v1"}),
        "COXSWAIN_MEMORY_PROVISION_POLL_SECONDS": "0.05",
        "DATABRICKS_HOST": workspace.url,
        "DATABRICKS_TOKEN": OPERATORS_TOKEN,
        "DATABRICKS_CLIENT_ID": "operators-cid",
        "DATABRICKS_CLIENT_SECRET": OPERATORS_CLIENT_SECRET,
        "OPENAI_API_KEY": OPERATORS_OPENAI_KEY,
        "OPENAI_BASE_URL": f"{llm.url}/v1",
        "ANTHROPIC_API_KEY": BAIT,
        "AWS_SECRET_ACCESS_KEY": BAIT,
    }


def _worker(suite: SuiteProcess, socket: str, tools_socket: str) -> ChildProcess:
    """A worker host beside the suite: of its own ones the suite does not pass on the standard output."""
    addresses = {f"COXSWAIN_{service.upper()}_ADDRESS": socket for service in SERVICES}
    addresses["COXSWAIN_TOOLS_ADDRESS"] = tools_socket
    environment = suite.environment() | addresses | {"COXSWAIN_METRICS_PORT": "0"}
    return ChildProcess("worker", ["-m", "services.orchestrator.worker"], environment)


# The story


def _play(world: World) -> None:
    _people_and_secrets(world)
    _models(world)
    _embedded_memory(world)
    _workspace_memory(world)
    world.worker.wait_for_line("worker_ready")
    _executions(world)
    _tools(world)
    _internal_methods(world)
    _wrong_places(world)
    _farewell(world)


def _people_and_secrets(world: World) -> None:
    ok, no = world.ok, world.no
    subject = ok("AuthService.WhoAmI").principal.subject
    world.principal = ok("AuthService.ExchangeToken", forwarded_access_token=world.token).principal_token
    ok("AuthService.GetJwks")
    create = partial(ok, "GroupService.CreateGroup", admin_subject=subject)
    world.group = create(display_name="Team").group.id
    world.principal = ok(
        "AuthService.ExchangeToken", authorization=f"Bearer {world.token}", group_id=world.group
    ).principal_token
    ok("GroupService.ListGroups")
    other = create(display_name="Other").group.id
    ok("GroupService.DeleteGroup", id=other, confirm_id=other)
    member = f"{world.workspace.identity.issuer}|bob@example.com"
    ok("GroupService.SetMember", subject=member, role="ROLE_OPERATOR")
    ok("GroupService.ListMembers")
    ok("GroupService.RemoveMember", subject=member)
    ok("GroupService.GetGroupLimits")
    limits = {"limits": {"max_crews": 100}, "update_mask": {"paths": ["max_crews"]}}
    ok("GroupService.SetGroupLimits", group_id=world.group, **limits)
    ok("GroupService.LowerGroupLimits", **limits)
    for method in ("RevokeAccess", "RevokeAccessEverywhere"):
        ok(f"GroupService.{method}", subject=member)
        world.no(f"GroupService.{method}", subject="")
    made: dict[str, Any] = {"name": "build", "role": "ROLE_OPERATOR", "lifetime": timedelta(hours=1)}
    ok("ServiceTokenService.CreateServiceToken", **made)
    world.no("ServiceTokenService.CreateServiceToken", **made)
    ok("ServiceTokenService.ListServiceTokens")
    ok("ServiceTokenService.RevokeServiceToken", name="build")
    world.no("ServiceTokenService.RevokeServiceToken", name="build")

    home, upstream = world.workspace.url, world.llm.url
    put: Callable[..., Any] = partial(ok, "SecretService.PutSecret")
    put(name="llm/openai", value=OPENAI_KEY, allowed_origins=[upstream])
    put(name="llm/together_ai", value=GATEWAY_KEY, allowed_origins=[upstream])
    put(name="databricks/pat", value=PAT, allowed_origins=[home])
    put(name="databricks/api-key", value=API_KEY, allowed_origins=[home])
    client = json.dumps({"client_id": "cid", "client_secret": CLIENT_SECRET})
    put(name="databricks/oauth-client", value=client, allowed_origins=[home])
    for name, value, origins in (
        ("llm/openai", OPENAI_KEY, []),
        ("llm/openai", f"{OPENAI_KEY}\n", [upstream]),
        ("llm/openai", OPENAI_KEY * 4000, [upstream]),
        ("llm/openai", OPENAI_KEY, [f"{upstream}/v1"]),
        ("databricks/oauth-client", CLIENT_SECRET, [home]),
        ("databricks/oauth-client", json.dumps({"client_secret": CLIENT_SECRET}), [home]),
        ("databricks/oauth-client", client[:-1], [home]),
    ):
        no("SecretService.PutSecret", name=name, value=value, allowed_origins=origins)
    ok("SecretService.ListSecrets")
    ok("SecretService.RotateKey")
    for purpose in ("DATABRICKS", "VECTOR_SEARCH", "LLM_PROVIDER"):
        for origin in ("", home, "https://example.com"):
            provider = "openai" if purpose == "LLM_PROVIDER" else ""
            purpose_name = f"CREDENTIAL_PURPOSE_{purpose}"
            fields = {"purpose": purpose_name, "provider": provider, "destination_origin": origin}
            ok("AuthService.ExplainCredential", **fields)
            world.caller.call(
                "AuthService.ResolveCredential",
                world.service("AuthService.ResolveCredential"),
                world.caller.message("AuthService.ResolveCredential", **fields),
            )
            ok("AuthService.ExplainCredentials", credentials=[fields])


def _completion(model: str, text: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "MESSAGE_ROLE_USER", "content": [{"text": text}]}]}


def _models(world: World) -> None:
    ok, no = world.ok, world.no
    ok("ModelService.ListModels")
    ok("ModelService.GetModel", name=OPENAI)
    own = {"name": "team/own", "provider": "PROVIDER_OPENAI", "base_url": f"{world.llm.url}/v1"}
    own |= {"upstream_model": "own", "capabilities": {"chat": True, "embeddings": True}}  # type: ignore[dict-item]
    ok("ModelService.CreateModel", model=own)
    other = own | {
        "name": "team/gateway",
        "provider": "PROVIDER_LITELLM",
        "upstream_model": "together_ai/own",
        "base_url": "",
    }
    ok("ModelService.CreateModel", model=other)
    mask = {"paths": ["description"]}
    ok("ModelService.UpdateModel", name="team/own", model={"description": "Ours"}, update_mask=mask)
    ok("ModelService.SetModelEnabled", name="team/own", enabled=True)
    ok("UsageService.SetBudget", budget={"calls_per_minute": 100_000})

    echoes = {"echo-own": OPENAI_KEY, "echo-gateway": GATEWAY_KEY, "echo-user": world.token}
    for word, secret in echoes.items():
        for emulator in (world.llm, world.workspace.llm):
            page = f"<html>{secret} {base64.b64encode(secret.encode()).decode()}</html>"
            emulator.on(Reply(fault=Fault(status=401, body=page)), contains=f"{word}-page")
            emulator.on(Reply(fault=Fault(status=500, message=f"bad: {secret}")), contains=f"{word}-broken")
            emulator.on(Reply(fault=Fault(status=400, message=f"bad: {secret}")), contains=f"{word}-bad")
            emulator.on(Reply(fault=Fault(status=401, message=f"Incorrect API key: {secret}")), contains=word)
    for model, word in ((OPENAI, "own"), ("team/own", "own"), ("team/gateway", "gateway"), (DATABRICKS, "user")):
        for method in ("Complete", "StreamComplete"):
            ok(f"InferenceService.{method}", completion=_completion(model, "hello"))
            for how in ("", "-page", "-bad"):
                no(f"InferenceService.{method}", completion=_completion(model, f"echo-{word}{how}"))
        ok("InferenceService.CountTokens", model=model, messages=_completion(model, "hello")["messages"])
    no("InferenceService.Complete", completion=_completion(OPENAI, "echo-own-broken"))
    ok("InferenceService.Embed", model="openai/text-embedding-3-small", texts=["hello"])
    no("InferenceService.Embed", model="openai/text-embedding-3-small", texts=["echo-own"])
    with _in_group(world, "house"):
        ok("InferenceService.Complete", completion=_completion(OPENAI, "hello"))
    ok("UsageService.QueryUsage")
    ok("UsageService.GetBudget")
    ok("UsageService.SetBudgetCeiling", group_id="another", ceiling={"calls_per_minute": 100_000})
    ok("UsageService.ListBudgets")
    ok("UsageService.ListBudgetAlerts")
    assert world.all("UsageService.WatchBudgetAlerts", take=1)
    ok("UsageService.DeleteBudget", scope={})
    ok("ModelService.DeleteModel", name="team/own")


@contextlib.contextmanager
def _in_group(world: World, group: str) -> Iterator[None]:
    before, world.group = world.group, group
    yield
    world.group = before


def _use_memory(world: World) -> None:
    ok = world.ok
    namespace = {"memory_id": "crew", "kind": "MEMORY_KIND_UNIFIED"}
    record = {"unified": {"content": "cats sleep a lot", "scope": "/a", "categories": ["cats"]}}
    [one, _] = ok("MemoryService.SaveRecords", namespace=namespace, records=[record, record]).ids
    assert ok("MemoryService.SearchRecords", namespace=namespace, text="cats").results
    [answer] = ok("MemoryService.BatchSearchRecords", queries=[{"namespaces": [namespace], "text": "cats"}]).answers
    assert answer.results
    ok("MemoryService.GetRecord", namespace=namespace, id=one)
    ok("MemoryService.GetHistoryPolicy")
    ok("MemoryService.SetHistoryPolicy", days=30)
    ok("MemoryService.TouchRecords", namespace=namespace, ids=[one])
    for name in ("ListRecords", "CountRecords", "ListScopes", "GetScope", "ListCategories"):
        ok(f"MemoryService.{name}", namespace=namespace)
    ok("MemoryService.ListNamespaces")
    exported = ok("MemoryService.ExportRecords", namespace=namespace)
    ok(
        "MemoryService.ImportRecords",
        target={"namespace": namespace},
        records=[{**record, "id": exported.records[0].id}],
    )
    _use_documents(world)
    ok("MemoryService.ForgetSubject", subject="dev|nobody")
    ok("MemoryService.DeleteRecords", namespace=namespace, ids=[one])
    ok("MemoryService.ClearNamespace", namespace=namespace)


def _use_documents(world: World) -> None:
    save = "DocumentService.SaveDocument"
    sent: list[dict[str, Any]] = [
        {"header": {"id": "note", "file_name": "note.md"}},
        {"chunk": b"# Cats\n\nThey sleep a lot."},
    ]
    messages = [world.caller.message(save, **fields) for fields in sent]
    answers = world.caller.call(save, world.metadata(save), messages)
    assert isinstance(answers, list), answers
    assert answers[-1].document.part_count == 1
    world.ok("DocumentService.GetDocument", id="note")
    assert [one.id for one in world.ok("DocumentService.ListDocuments").documents] == ["note"]
    assert world.ok("DocumentService.DeleteDocument", id="note").deleted_parts == 1


def _embedded_memory(world: World) -> None:
    world.ok("MemoryService.DeriveMemoryId", agent_roles=["a"], task_names=["b"], crew_name="c")
    _use_memory(world)
    namespace = {"memory_id": "crew", "kind": "MEMORY_KIND_UNIFIED"}
    world.ok("MemoryService.ListRecordVersions", namespace=namespace, id="one")
    entities = {"memory_id": "crew", "kind": "MEMORY_KIND_ENTITY"}
    world.ok("MemoryService.SaveRecords", namespace=entities, records=[{"entity": {"entity_name": "Ann"}}])
    world.ok("MemoryService.TraverseEntities", namespace=entities, start="Ann")


def _backend(url: str, name: str, endpoint: str) -> dict[str, Any]:
    config = {"workspace_url": url, "endpoint": endpoint, "catalog": "main", "schema": "memories"}
    indexes = [{"kind": "MEMORY_KIND_UNIFIED", "index": "unified"}, {"kind": "MEMORY_KIND_DOCUMENT", "index": "papers"}]
    return {"name": name, "databricks": config | {"indexes": indexes}}


def _workspace_memory(world: World) -> None:
    ok, no, vectors = world.ok, world.no, world.workspace.vector_search
    backend = _backend(world.workspace.url, "workspace", "shared")
    id_ = ok("MemoryBackendService.CreateMemoryBackend", backend=backend).backend.id
    ok("MemoryBackendService.GetMemoryBackend", id=id_)
    ok("MemoryBackendService.ListMemoryBackends")
    change = backend | {"id": id_, "name": "workshop"}
    ok("MemoryBackendService.UpdateMemoryBackend", id=id_, backend=change, update_mask={"paths": ["name"]})
    for status in (401, 403, 400):
        with _vector_search_echoes(world, status):
            no("MemoryBackendService.ProvisionMemoryBackend", id=id_)
            ok("MemoryBackendService.VerifyMemoryBackend", id=id_)
    ok("MemoryBackendService.ProvisionMemoryBackend", id=id_)
    ok("MemoryBackendService.VerifyMemoryBackend", id=id_)
    ok("MemoryBackendService.ActivateMemoryBackend", id=id_)
    _use_memory(world)
    _indexes(world, id_)
    vectors.clear_faults()

    spare = ok("MemoryBackendService.CreateMemoryBackend", backend=_backend(world.workspace.url, "spare", "spare"))
    ok("VectorIndexService.CreateEndpoint", backend_id=spare.backend.id)
    ok("VectorIndexService.GetEndpoint", backend_id=spare.backend.id)
    ok("VectorIndexService.ListEndpoints", backend_id=spare.backend.id)
    ok("VectorIndexService.DeleteEndpoint", backend_id=spare.backend.id, confirm_name="spare")
    ok("MemoryBackendService.DeleteMemoryBackend", id=spare.backend.id)


def _indexes(world: World, backend: str) -> None:
    ok, no = world.ok, world.no
    record = {"id": "r", "unified": {"content": "dogs bark"}, "embedding": [1.0] * 1024}
    ok("VectorIndexService.UpsertIndexRecords", index=INDEX, memory_id="crew", records=[record])
    ok("VectorIndexService.SimilaritySearch", index=INDEX, query_vector=[1.0] * 1024)
    ok("VectorIndexService.DescribeIndex", index=INDEX)
    ok("VectorIndexService.CountIndexRecords", index=INDEX)
    ok("VectorIndexService.ListIndexes")
    ok("VectorIndexService.GetSchema", kind="MEMORY_KIND_UNIFIED")
    namespace = {"memory_id": "crew", "kind": "MEMORY_KIND_UNIFIED"}
    for status in (400, 401, 403, 404):
        with _vector_search_echoes(world, status):
            no("VectorIndexService.UpsertIndexRecords", index=INDEX, memory_id="crew", records=[record])
            no("VectorIndexService.SimilaritySearch", index=INDEX, query_vector=[1.0] * 1024)
            no("VectorIndexService.DeleteIndexRecords", index=INDEX, memory_id="crew", ids=["r"])
            no("VectorIndexService.CountIndexRecords", index=INDEX)
            no("MemoryService.SearchRecords", namespace=namespace, text="cats")
            no("MemoryService.SaveRecords", namespace=namespace, records=[{"unified": {"content": "cats"}}])
    ok("VectorIndexService.DeleteIndexRecords", index=INDEX, memory_id="crew", ids=["r"])
    ok("VectorIndexService.EmptyIndex", index=INDEX, confirm_name=INDEX)
    extra = "main.memories.extra"
    ok("VectorIndexService.CreateIndex", index=extra, backend_id=backend, kind="MEMORY_KIND_ENTITY")
    ok("VectorIndexService.AdoptIndex", index=extra, backend_id=backend, kind="MEMORY_KIND_ENTITY")
    ok("VectorIndexService.DeleteIndex", index=extra, confirm_name=extra)


@contextlib.contextmanager
def _vector_search_echoes(world: World, status: int, credential: str = "") -> Iterator[None]:
    """Have Vector Search refuse everything, repeating the credential (the telling part of the user's token)."""
    vectors = world.workspace.vector_search
    credential = credential or world.token.rpartition(".")[2]
    vectors.fail(ApiFault(times=None, status=status, message=f"{credential} was refused"))
    yield
    vectors.clear_faults()


def _executions(world: World) -> None:
    ok = world.ok
    ours, theirs = Scene(world.llm), Scene(world.workspace.llm)
    start: Callable[..., Any] = partial(_start, world)

    ours.answers("good", "A result.")
    memory = {"enabled": True, "embedding_model": "databricks/databricks-gte-large-en"}
    spec = ours.crew("good", memory=memory)
    ok("CrewService.ValidateCrew", spec=spec)
    crew = ok("CrewService.CreateCrew", spec=spec).crew.id
    ok("CrewService.GetCrew", id=crew)
    ok("CrewService.ListCrews")
    ok("CrewService.ListPublications")
    good = start(crew)
    assert _end(world, good) == "EXECUTION_STATE_SUCCEEDED"

    ours.answers("bad", fault=Fault(status=401, message=f"Incorrect API key provided: {OPENAI_KEY}"), times=1)
    ours.answers("bad", fault=Fault(status=401, body=f"<b>{OPENAI_KEY}</b>"), times=1)
    crew = ok("CrewService.UpdateCrew", id=crew, spec=ours.crew("bad"), update_mask={"paths": ["*"]}).crew.id
    bad = start(crew)
    assert _end(world, bad) == "EXECUTION_STATE_FAILED"
    resumed = ok("ExecutionService.ResumeExecution", id=bad).execution.id
    _end(world, resumed)
    forked = ok("ExecutionService.ForkExecution", id=good, from_task=spec.tasks[0].name).execution.id
    _end(world, forked)
    ok("ExecutionService.CompareExecutions", ids=[good, resumed, forked])

    # On behalf of the user, then of the group: by its OAuth client, and with that gone by its API key.
    theirs.answers("work", "A result.")
    bearers = []
    on_workspace = theirs.crew("work", model=DATABRICKS, memory=memory)
    crew = ok("CrewService.CreateCrew", spec=on_workspace).crew.id
    for identity in ("USER", "GROUP"):
        execution = start(crew, identity=f"EXECUTION_IDENTITY_{identity}")
        assert _end(world, execution) == "EXECUTION_STATE_SUCCEEDED"
        bearers.append(theirs.calls("work")[-1].bearer)
    with _vector_search_echoes(world, 400, PAT):
        assert _end(world, start(crew, identity="EXECUTION_IDENTITY_GROUP")) == "EXECUTION_STATE_FAILED"
    ok("SecretService.DeleteSecret", name="databricks/oauth-client")
    assert _end(world, start(crew, identity="EXECUTION_IDENTITY_GROUP")) == "EXECUTION_STATE_SUCCEEDED"
    bearers.append(theirs.calls("work")[-1].bearer)
    assert bearers[0] == world.token
    assert bearers[2] == API_KEY
    world.marked.add("token of the OAuth client", str(bearers[1]))
    ok("CrewService.DeleteCrew", id=crew)

    _approval_and_cancellation(world, ours)
    ok("ExecutionService.ListExecutions")
    ok("WorkerService.ListWorkers")
    ours.answers("idle", "A result.")
    spec = ours.crew("idle")
    spec.name = "idle"
    spec.tasks[0].output_file = "idle.md"
    idle = ok("CrewService.CreateCrew", spec=spec).crew.id
    planned = {"name": "daily", "cron": "0 0 1 1 *", "start": {"crew_id": idle}}
    schedule = ok("ScheduleService.CreateSchedule", schedule=planned).schedule
    ok("ScheduleService.GetSchedule", id=schedule.id)
    ok("ScheduleService.ListSchedules")
    ok("ScheduleService.UpdateSchedule", id=schedule.id, schedule=schedule, update_mask={"paths": ["*"]})
    webhook = ok("WebhookService.CreateWebhook", webhook={"url": f"{world.llm.url}/no-hook"}).webhook
    fired = ok("ScheduleService.FireSchedule", id=schedule.id).execution.id
    _end(world, fired)
    ok("ArtifactService.ListArtifacts", execution_id=fired)
    ok("ArtifactService.GetArtifact", execution_id=fired, name="idle.md")
    assert world.all("ArtifactService.DownloadArtifact", execution_id=fired, name="idle.md")
    ok("ScheduleService.DeleteSchedule", id=schedule.id)
    _webhook(world, webhook)
    assert world.all("ExecutionService.WatchExecutions", take=1)
    batch = ok("BatchService.StartBatch", start={"crew_id": idle}, inputs=[{}]).batch.id
    ok("BatchService.ListBatches")
    ok("BatchService.CancelBatch", id=batch)
    while not ok("BatchService.GetBatch", id=batch).batch.HasField("end_time"):
        time.sleep(0.05)
    ok("BatchService.DeleteBatch", id=batch)
    ok("ExecutionService.SetExecutionRetention", keep_forever={})
    ok("ExecutionService.GetExecutionRetention")
    ok("ExecutionService.DeleteExecution", id=fired)


def _webhook(world: World, webhook: Any) -> None:
    ok = world.ok
    ok("WebhookService.GetWebhook", id=webhook.id)
    ok("WebhookService.ListWebhooks")
    while not (made := ok("WebhookService.ListWebhookDeliveries", webhook_id=webhook.id).deliveries):
        time.sleep(0.05)
    ok("WebhookService.RetryWebhookDelivery", id=made[-1].id)
    ok("WebhookService.RotateWebhookSigningKey", id=webhook.id)
    world.no("WebhookService.UpdateWebhook", id=webhook.id, webhook={"url": "http://192.0.2.1"}, update_mask=_URL)
    ok("WebhookService.UpdateWebhook", id=webhook.id, webhook={"paused": True}, update_mask={"paths": ["paused"]})
    ok("WebhookService.DeleteWebhook", id=webhook.id)


def _approval_and_cancellation(world: World, scene: Scene) -> None:
    ok = world.ok
    scene.answers("asked", "A result.")
    scene.answers("long", hang=True)
    spec = scene.crew("asked", "long")
    spec.name = "asking"
    spec.tasks[0].human_approval = True
    execution = _start(world, ok("CrewService.CreateCrew", spec=spec).crew.id)
    # Up to the parking, which comes after the request.
    events: list[Any] = []
    while not any(event.HasField("execution_parked") for event in events):
        after = events[-1].sequence if events else 0
        answers = world.all("ExecutionService.WatchExecution", id=execution, after_sequence=after, take=1)
        events += [answer.event for answer in answers]
    [asked] = [event.question_raised for event in events if event.HasField("question_raised")]
    ok("QuestionService.ListQuestions")
    ok("QuestionService.GetQuestion", id=asked.question_id)
    assert world.all("QuestionService.WatchQuestions", take=1)
    ok(
        "QuestionService.AnswerQuestion",
        id=asked.question_id,
        accept={"content": {"string_value": "A result that was edited."}},
    )
    scene.wait_until_hanging("long")
    ok("ExecutionService.RenewExecutionCredential", id=execution)
    _look_into_crew_processes(world)
    ok("ExecutionService.CancelExecution", id=execution)
    assert _end(world, execution) == "EXECUTION_STATE_CANCELLED"


def _start(world: World, crew: str, **fields: Any) -> str:
    return str(world.ok("ExecutionService.StartExecution", crew_id=crew, **fields).execution.id)


def _end(world: World, execution: str) -> str:
    """Watch an execution to its end and read all that is kept of it; return its state."""
    assert world.all("ExecutionService.WatchExecution", id=execution)
    world.ok("ExecutionService.GetTaskOutputs", id=execution)
    ended = world.ok("ExecutionService.GetExecution", id=execution).execution
    return str(ended.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number[ended.state].name)


def _look_into_crew_processes(world: World) -> None:
    """Read the environment and command line of the fork server and of what it has forked."""
    host = psutil.Process(world.worker.pid)
    crews = crew_processes(host)
    world.crews_seen += len(crews)
    for process in (*crews, *(parent for crew in crews for parent in crew.parents()[:1])):
        for file in ("environ", "cmdline"):
            found = world.marked.found_in(private_file(process.pid, file))
            world.process_secrets += [f"{file} of {process.pid}: {what}" for what in found]
    for program in world.processes:
        for process in (psutil.Process(program.pid), *descendants(program.pid)):
            found = world.marked.found_in("\0".join(process.cmdline()))
            world.process_secrets += [f"cmdline of {process.pid}: {what}" for what in found]


def _tools(world: World) -> None:
    """Let a source send a secret, and repeat it in its answer."""
    ok, no = world.ok, world.no
    upstream = world.llm.url
    ok("SecretService.PutSecret", name="tools/shop", value=TOOL_KEY, allowed_origins=[upstream])
    operation = {
        "name": "look",
        "description": "Looks.",
        "method": "GET",
        "path": "/v1/models/{id}",
        "arguments_schema": {"type": "object", "properties": {"id": {"type": "string"}}},
    }
    spec: dict[str, Any] = {
        "name": "shop",
        "http": {"base_url": upstream, "operations": [operation]},
        "secret": {"secret_name": "tools/shop"},
    }
    source = ok("ToolSourceService.CreateToolSource", spec=spec).source
    assert (source.tool_count, source.list_error) == (1, "")
    no("ToolSourceService.CreateToolSource", spec={**spec, "name": "other", "headers": {"authorization": TOOL_KEY}})
    no("ToolSourceService.CreateToolSource", spec={**spec, "name": "other", "secret": {"secret_name": TOOL_KEY}})
    no(
        "ToolSourceService.CreateToolSource",
        spec={"name": "other", "mcp": {"url": f"https://user:{TOOL_KEY}@example.com/mcp"}},
    )
    ok("ToolSourceService.GetToolSource", id=source.id)
    ok("ToolSourceService.ListToolSources")
    ok("ToolSourceService.RefreshToolSource", id=source.id)
    ok("ToolSourceService.CheckToolSource", id=source.id)
    ok("ToolSourceService.ListToolChanges", id=source.id)
    ok("ToolSourceService.AcceptToolChanges", id=source.id, list_revision=1)
    ok("ToolSourceService.UpdateToolSource", id=source.id, spec=spec, update_mask={"paths": ["http", "secret"]})
    ok("ToolService.ListTools")
    assert ok("ToolService.TestTool", name="shop/look", arguments={"id": "m"}).WhichOneof("outcome") == "result"
    no("ToolService.TestTool", name="shop/look", arguments={"id": 7})
    assert ok("ToolService.QueryToolUsage", tool="shop/look").rows[0].calls == 1
    call = {"call_id": "call-1", "tool": "shop/look", "arguments_json": '{"id": "m"}', "idempotent": True}
    ok("ToolGatewayService.ListSourceTools", source_id=source.id)
    ok("ToolGatewayService.ListUnavailableTools")
    ok("ToolGatewayService.ExecuteToolCall", **call)
    ok("ToolGatewayService.CancelToolCall", call_id="call-1")
    ok("ToolGatewayService.AnswerSourceQuestion", call_id="call-1", number=1, action="cancel")
    ok("ToolSourceService.DeleteToolSource", id=source.id)
    ok("SecretService.DeleteSecret", name="tools/shop")


def _internal_methods(world: World) -> None:
    ok, no = world.ok, world.no
    # A principal is valid for minutes; the one of the beginning may be old on a busy machine.
    delegated = ok("AuthService.CreateDelegation", execution_id="run-1")
    issue = {"grant_id": delegated.grant_id, "execution_id": "run-1"}
    ok("AuthService.IssueExecutionPrincipal", **issue)
    ok("AuthService.RenewDelegation", execution_id="run-1")
    ok("AuthService.RevokeDelegation", execution_id="run-1")
    no("AuthService.IssueExecutionPrincipal", **issue)
    ok("AuthService.ListAccessChanges")
    ok("AuthService.ShareGroupTraffic", process_id="process-1")
    ok("AuthService.GetLimitsOfGroups", group_ids=[world.group])
    hint = {"kind": "HINT_KIND_EVENTS_STORED", "execution_id": "run-1", "last_sequence": 1}
    heard: list[Any] = []
    listener = threading.Thread(
        target=lambda: heard.extend(world.all("WorkerService.SubscribeHints", executor_id="listener", take=1))
    )
    listener.start()
    ok("WorkerService.PublishHint", hint=hint)
    crew = ok("CrewService.GetCrew", name="idle").crew.id
    while listener.is_alive():
        assert _end(world, _start(world, crew)) == "EXECUTION_STATE_SUCCEEDED"
    assert heard


def _wrong_places(world: World) -> None:
    """Put secrets where people put them by mistake, on every method, and send what cannot be decoded."""
    basic = base64.b64encode(f"cid:{CLIENT_SECRET}".encode()).decode()
    for name in every_rpc():
        metadata = world.metadata(name)
        wrong: list[list[tuple[str, str]]] = [
            [("authorization", f"Bearer {PAT}")],
            [("authorization", f"Basic {basic}")],
            [("authorization", OPENAI_KEY)],
            [("authorization", f"Bearer {world.token}"), *metadata],
            [("x-forwarded-access-token", API_KEY)],
            [("x-forwarded-access-token", f"{world.token}{API_KEY}")],
            [("x-forwarded-access-token", world.token), ("x-group-id", world.token)],
            [("x-forwarded-access-token", world.token), ("x-group-id", SHAPED_PAT)],
            [("x-coxswain-service", PAT), ("x-coxswain-principal", world.principal)],
            [*metadata[:1], ("x-coxswain-principal", PAT)],
            [*metadata[1:], ("x-coxswain-service", f"{world.principal}")],
        ]
        request = world.caller.message(name)
        for headers in wrong:
            world.caller.call(
                name, [*headers, ("x-api-key", OPENAI_KEY), ("cookie", f"session={PAT}")], request, take=1
            )
        for secret in (PAT, world.token):
            world.caller.call(name, metadata, b"\x0a\xff\xff\xff\x7f" + secret.encode())
        if is_internal(every_rpc()[name]):
            world.caller.call(name, [*world.user(), *metadata], request, public=True)


def _farewell(world: World) -> None:
    """Scrape the figures, and look at everything once more while it is open."""
    with urllib.request.urlopen(f"http://127.0.0.1:{world.metrics_port}/metrics", timeout=30) as answer:
        world.caller.told.append(("metrics", answer.read()))
    for secret in world.caller.secrets:
        world.marked.add("issued by auth", secret)
    upstream = [exchange.headers for exchange in world.workspace.vector_search.log]
    upstream += [call.headers for call in (*world.workspace.llm.calls, *world.llm.calls)]
    for headers in upstream:
        world.marked.add("seen upstream", headers["authorization"].partition(" ")[2])
    world.found_in_open_files = _found_in_files(world)


def _found_in_files(world: World) -> dict[str, list[str]]:
    """Search every file, other than the keys' own, that the product has made."""
    files = [file for file in world.suite.data_dir.parent.rglob("*") if file.is_file()]
    assert {f"{service}.db" for service in SERVICES} <= {file.name for file in files}
    found = {str(file): world.marked.found_in(file.read_bytes()) for file in files}
    return {file: secrets for file, secrets in found.items() if secrets}


# What became of it


@given(before=st.binary(max_size=8), after=st.binary(max_size=8))
def test_a_marked_secret_is_found_in_every_form_and_place(marked: MarkedSecrets, before: bytes, after: bytes) -> None:
    content = before + PAT.encode() + after
    for form in (
        content,
        content.hex(),
        content.hex().upper(),
        quote(content, safe=""),
        base64.b64encode(content),
        base64.urlsafe_b64encode(content),
    ):
        assert any(found.startswith("PAT ") for found in marked.found_in(form))


def test_every_rpc_has_succeeded_and_has_been_refused(world: World) -> None:
    assert world.caller.succeeded == set(every_rpc())
    assert world.caller.refused == set(every_rpc())


def test_no_answer_and_no_error_tells_a_secret(world: World) -> None:
    found: dict[str, set[str]] = {}
    for name, content in world.caller.told:
        for what in world.marked.found_in(content):
            found.setdefault(what, set()).add(name)
    assert found == {}


def test_nothing_logged_tells_a_secret(world: World) -> None:
    for program in world.processes:
        assert '"level": "debug"' in program.output
        lines = {f"{what}: {line[:600]}" for line in program.lines for what in world.marked.found_in(line)}
        assert lines == set()


def test_no_trace_tells_a_secret_or_a_person(world: World) -> None:
    recorded = world.collector.spans()
    assert {span.service for span in recorded} == {"suite", "tools", "worker"}
    methods = {f"{method.containing_service.full_name}/{method.name}" for method in every_rpc().values()}
    assert {span.name for span in recorded} >= methods
    sent = b"".join(world.collector.messages)
    assert world.marked.found_in(sent) == []
    assert b"ann@example.com" not in sent


def test_no_file_holds_a_secret(world: World) -> None:
    assert world.found_in_open_files == {}
    assert _found_in_files(world) == {}


def test_no_crew_process_and_no_command_line_shows_a_secret(world: World) -> None:
    assert world.crews_seen
    assert world.process_secrets == []


def test_the_secrets_have_been_where_they_belong(world: World) -> None:
    workspace = world.workspace
    assert {call.bearer for call in world.llm.calls} == {OPENAI_KEY, GATEWAY_KEY, OPERATORS_OPENAI_KEY}
    serving = {call.bearer for call in workspace.llm.calls}
    assert {world.token, API_KEY} < serving
    searching = {exchange.headers["authorization"] for exchange in workspace.vector_search.log}
    assert searching == {f"Bearer {world.token}", f"Bearer {PAT}"}
    [asked] = workspace.identity.requests(path="/oidc/v1/token")
    basic = base64.b64encode(f"cid:{CLIENT_SECRET}".encode()).decode()
    assert basic in asked.headers.get("authorization", "") or asked.body["client_secret"] == CLIENT_SECRET
    assert world.caller.secrets
