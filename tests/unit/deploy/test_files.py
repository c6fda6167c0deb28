"""What holds of the files themselves, and between them and the code."""

import importlib.util
import re
from pathlib import Path

import pytest

from services.auth.http import JsonClient
from services.auth.identity.modes import verifier_of
from services.auth.limit_settings import LimitSettings
from services.auth.settings import AuthSettings
from services.common.egress import AddressPolicy
from services.common.grpc import arrivals
from services.common.settings import (
    CommonSettings,
    internal_port,
    peer_address,
    public_port,
)
from services.memory.settings import MemorySettings
from services.models.settings import ModelsSettings
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.tool_gateway.settings import ToolGatewaySettings
from services.orchestrator.worker.settings import WorkerSettings
from tests.unit.deploy.manifests import (
    GATEWAY,
    K8S,
    PROD,
    ROOT,
    SERVERS,
    all_files,
    base,
    check,
    container,
    known_variables,
    kustomizations,
    prod_settings,
    read,
    resource_files,
    walk,
)

DOCKERFILE = (ROOT / "deploy" / "docker" / "Dockerfile").read_text(encoding="utf-8")
MODULES = dict(
    re.findall(r'^FROM runtime AS (\w+)\nENTRYPOINT \["python", "-m", "([\w.]+)"\]$', DOCKERFILE, re.MULTILINE)
)


@pytest.fixture
def as_in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in known_variables():
        monkeypatch.delenv(name, raising=False)
    for name, value in prod_settings().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")


@pytest.mark.parametrize("path", resource_files(), ids=lambda path: path.name)
def test_every_document_is_valid_by_itself(path: Path) -> None:
    documents = read(path)
    assert documents
    for document in documents:
        check(document)


def test_every_file_is_used() -> None:
    used = set()
    for directory, kustomization in kustomizations().items():
        used.add(directory / "kustomization.yaml")
        used |= {directory / name for name in kustomization.get("resources", [])}
        used |= {directory / patch["path"] for patch in kustomization.get("patches", []) if "path" in patch}
    assert set(all_files()) <= used
    assert [path for path in used if not path.exists()] == []


def test_every_variable_is_a_setting_of_the_code() -> None:
    named = set(prod_settings())
    for path in all_files():
        for document in read(path):
            if document.get("kind") != "StatefulSet":  # PostgreSQL has variables of its own
                for node in walk(document):
                    named |= {variable["name"] for variable in node.get("env", [])}
    assert named - known_variables() == set()


@pytest.mark.usefixtures("as_in_production")
def test_services_accept_the_settings_of_production() -> None:
    common = CommonSettings()
    common.refuse_unsafe_identity()
    for settings in (
        LimitSettings,
        ModelsSettings,
        MemorySettings,
        OrchestratorSettings,
        WorkerSettings,
        ToolGatewaySettings,
    ):
        settings()
    auth = AuthSettings()
    http = JsonClient(AddressPolicy([], setting="none"), timeout_seconds=1)
    assert verifier_of(common.identity_mode, auth, http, {}) is not None
    assert auth.bootstrap_admin


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize("service", [*SERVERS, GATEWAY])
def test_ports_and_addresses_are_those_the_code_serves_on(service: str) -> None:
    common = CommonSettings()
    expected = {"public": public_port(common, service), "internal": internal_port(service)}
    served = container(base("Deployment")[service])
    assert {port["name"]: port["containerPort"] for port in served["ports"]} == expected
    headless = base("Service")[service]["spec"]
    assert headless["clusterIP"] == "None"
    offered = {"internal": expected["internal"]} if service == GATEWAY else expected
    assert {port["targetPort"]: port["port"] for port in headless["ports"]} == offered
    assert peer_address(service) == f"dns:///{service}:{expected['internal']}"


@pytest.mark.usefixtures("as_in_production")
def test_metrics_are_scraped_where_they_are_served() -> None:
    (running,) = read(K8S / "base" / "running.yaml")
    template = running["spec"]["template"]
    (metrics,) = container(running)["ports"]
    assert metrics["containerPort"] == CommonSettings().metrics_port
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(metrics["containerPort"])


@pytest.mark.usefixtures("as_in_production")
def test_pods_get_the_time_that_draining_takes() -> None:
    common, worker = CommonSettings(), WorkerSettings()
    (serving,) = read(K8S / "base" / "serving.yaml")
    pause = container(serving)["lifecycle"]["preStop"]["sleep"]["seconds"]
    # The public listener drains before the internal one.
    listener = arrivals._ACCEPTING_SECONDS + arrivals._REFUSING_SECONDS + common.drain_seconds
    closing = 15
    needed = pause + 2 * listener + closing
    assert serving["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > needed
    worker_pod = base("Deployment")["worker"]["spec"]["template"]["spec"]
    assert worker_pod["terminationGracePeriodSeconds"] > worker.drain_seconds


def test_every_image_runs_a_module_and_installs_a_lock_that_exist() -> None:
    assert set(MODULES) == {*SERVERS, "worker", GATEWAY}
    for name, module in MODULES.items():
        assert importlib.util.find_spec(f"{module}.__main__"), module
        assert (ROOT / "requirements" / f"{name}.txt").is_file()


def test_what_the_image_build_copies_exists_and_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = re.findall(r"^COPY ([\w./*]+) ", DOCKERFILE, re.MULTILINE)
    assert {"protos", "services/common"} <= set(copied)
    shown = {path for rule in ignored if rule.startswith("!") for path in ROOT.glob(rule[1:])}
    for source in copied:
        found = list(ROOT.glob(source))
        assert found, source
        for path in found:
            assert not shown.isdisjoint({path, *path.parents}), source


def test_every_deployment_runs_an_image_that_is_built_and_that_production_places() -> None:
    deployments = base("Deployment")
    assert {container(deployment)["image"] for deployment in deployments.values()} == {f"coxswain-{m}" for m in MODULES}
    assert all(container(deployment)["image"] == f"coxswain-{name}" for name, deployment in deployments.items())
    assert {image["name"] for image in kustomizations()[PROD]["images"]} == {f"coxswain-{m}" for m in MODULES}


@pytest.mark.parametrize("service", SERVERS)
def test_every_service_migrates_its_own_database_with_its_own_image(service: str) -> None:
    run = container(base("Job")[f"migrate-{service}"])
    seeded = importlib.util.find_spec(f"services.{service}.seed") is not None
    action = "seed" if seeded else "upgrade"
    assert run["command"] == ["python", "-m", "services.common.db.migrate", action, service]
    assert run["image"] == f"coxswain-{service}"
    variables = {variable["name"]: variable["valueFrom"]["secretKeyRef"] for variable in run["env"]}
    assert variables == {
        f"COXSWAIN_{service.upper()}_DATABASE_URL": {"name": "coxswain-database", "key": service},
        f"COXSWAIN_{service.upper()}_DIRECT_DATABASE_URL": {
            "name": "coxswain-database",
            "key": f"{service}-direct",
            "optional": True,
        },
    }


def test_no_secret_is_kept_in_the_repository() -> None:
    for path in all_files():
        for document in read(path):
            assert document.get("kind") != "Secret", path
            assert "secretGenerator" not in document, path
            for node in walk(document):
                for variable in node.get("env", []):
                    secret = re.search(r"URL$|TOKEN|SECRET|PASSWORD|KEY$|RING$", variable["name"])
                    assert not (secret and "value" in variable), (path, variable["name"])
    assert [name for name in prod_settings() if re.search(r"URL$|TOKEN|SECRET|PASSWORD|KEY$|RING$", name)] == []
