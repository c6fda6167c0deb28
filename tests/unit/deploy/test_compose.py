"""deploy/compose.yaml deploys what the code serves and what the manifests of Kubernetes deploy."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.keys import make_keys
from services.auth.settings import AuthSettings
from services.common.settings import CommonSettings, internal_port, peer_address, public_port
from services.orchestrator.worker.settings import WorkerSettings
from tests.unit.deploy.manifests import GATEWAY, K8S, ROOT, SERVERS, base, container, known_variables, literals, read

FILE = ROOT / "deploy" / "compose.yaml"
COMPOSE: dict[str, Any] = yaml.load(FILE.read_text(encoding="utf-8"), yaml.CSafeLoader)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
RUNNING = [*SERVERS, GATEWAY, "worker"]
MIGRATIONS = [f"migrate-{service}" for service in SERVERS]
MEBIBYTES = {"m": 1, "g": 1024, "Mi": 1, "Gi": 1024}
GIVEN = {
    "COXSWAIN_AUTH_OIDC_ISSUERS": '[{"issuer":"https://issuer.example.com","audiences":["coxswain"]}]',
    "COXSWAIN_AUTH_BOOTSTRAP_ADMIN": "https://issuer.example.com|administrator",
}
"""What the operator has to give; the file refuses to start without."""
DIFFERENT = {
    "COXSWAIN_KEYS_DIR": "/run/secrets",
    "COXSWAIN_ORCHESTRATOR_A2A_PUBLIC_ADDRESS": "127.0.0.1:50051",
}
"""Settings that have other values in Kubernetes."""


def environment(name: str) -> dict[str, str]:
    """Return the variables of a container, as they are with what the operator gives."""
    return {variable: GIVEN.get(variable, value) for variable, value in SERVICES[name].get("environment", {}).items()}


def secrets(name: str) -> dict[str, str]:
    """Return which secret a container has at which path below /run/secrets."""
    entries = SERVICES[name].get("secrets", [])
    return dict((one, one) if isinstance(one, str) else (one["target"], one["source"]) for one in entries)


def mebibytes(size: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(\w+)", size).groups()  # type: ignore[union-attr]
    return int(number) * MEBIBYTES[unit]


def use(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have settings read as in a container."""
    for variable in known_variables():
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment(name).items():
        monkeypatch.setenv(variable, value)


def test_it_has_a_database_its_migrations_and_every_process() -> None:
    assert sorted(SERVICES) == sorted(["postgres", *MIGRATIONS, *RUNNING])
    assert SERVICES["worker"]["deploy"]["replicas"] == 2


@pytest.mark.parametrize("name", RUNNING)
def test_a_process_has_the_image_the_memory_and_the_time_it_has_in_kubernetes(name: str) -> None:
    deployment = base("Deployment")[name]
    pod = deployment["spec"]["template"]["spec"]
    assert SERVICES[name]["image"] == f"${{IMAGE_PREFIX:-}}{container(deployment)['image']}:${{IMAGE_TAG:-latest}}"
    limit = container(deployment)["resources"]["limits"]["memory"]
    assert mebibytes(SERVICES[name]["mem_limit"]) == mebibytes(limit)
    (serving,) = read(K8S / "base" / "serving.yaml")
    seconds = (
        pod.get("terminationGracePeriodSeconds") or serving["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    )
    assert SERVICES[name]["stop_grace_period"] == f"{seconds}s"


@pytest.mark.parametrize("name", RUNNING)
def test_the_settings_are_known_and_those_of_kubernetes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = environment(name)
    assert set(given) - known_variables() == {"PGPASSFILE"}
    for variable, value in literals(K8S / "base").items():
        assert given[variable] == DIFFERENT.get(variable, value), variable
    own = {one["name"]: one["value"] for one in container(base("Deployment")[name])["env"] if "value" in one}
    for variable, value in own.items():
        assert given[variable] == value.replace("/secrets/", "/run/secrets/"), variable
    use(name, monkeypatch)
    common = CommonSettings()
    common.refuse_unsafe_identity()
    assert AuthSettings().bootstrap_admin
    assert f":{common.metrics_port}/readyz" in SERVICES[name]["healthcheck"]["test"][-1]
    drain = WorkerSettings().drain_seconds if name == "worker" else 2 * common.drain_seconds
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > drain


@pytest.mark.parametrize("service", [*SERVERS, GATEWAY])
def test_processes_find_each_other_and_callers_reach_them_on_loopback(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use("worker", monkeypatch)
    assert peer_address(service) == f"dns:///{service}:{internal_port(service)}"
    port = public_port(CommonSettings(), service)
    assert SERVICES[service].get("ports", []) == ([] if service == GATEWAY else [f"127.0.0.1:{port}:{port}"])


@pytest.mark.parametrize("service", SERVERS)
def test_a_schema_is_brought_up_to_date_before_what_reads_it_starts(service: str) -> None:
    migration = SERVICES[f"migrate-{service}"]
    assert migration["entrypoint"] == container(base("Job")[f"migrate-{service}"])["command"]
    assert migration["image"] == SERVICES[service]["image"]
    assert migration["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert "healthcheck" in SERVICES["postgres"]
    readers = [service, GATEWAY, "worker"] if service == "orchestrator" else [service]
    for reader in readers:
        assert SERVICES[reader]["depends_on"] == {f"migrate-{service}": {"condition": "service_completed_successfully"}}


def test_secrets_are_files_that_the_page_makes_and_each_process_has_its_own(tmp_path: Path) -> None:
    page = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    made = {path for path in ("postgres-password", "pgpass") if f"> deploy/secrets/{path}" in page}
    make_keys(tmp_path, add_ring_key=False)
    made |= {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {secret["file"].removeprefix("secrets/") for secret in COMPOSE["secrets"].values()} == made
    public = {f"services/{name}.pub": f"{name}.pub" for name in (*SERVERS, GATEWAY)}
    for name in RUNNING:
        signer = "orchestrator" if name == "worker" else name
        own = {"pgpass": "pgpass", f"services/{signer}.key": f"{signer}.key"} | public
        assert secrets(name) == own | ({"key-ring": "key-ring"} if name == "auth" else {})
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    # The command reads this one itself, and the directory of the secrets is closed to whoever calls it.
    (shared,) = SERVICES["auth"]["env_file"]
    assert {"/deploy/secrets/", f"/deploy/{shared['path']}"} <= set(ignored)
    assert not shared["required"]


def test_no_secret_is_written_into_the_file() -> None:
    for name in SERVICES:
        for variable, value in environment(name).items():
            if re.search(r"TOKEN|SECRET|PASSWORD|KEY|RING|PASS", variable) and variable != "COXSWAIN_KEYS_DIR":
                assert value.startswith("/run/secrets/"), variable
            if variable.endswith("DATABASE_URL"):
                assert re.fullmatch(r"postgresql://\w+@postgres:5432/\w+", value)


def test_workers_and_the_database_reach_the_services_alone() -> None:
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    inside = {name for name, service in SERVICES.items() if service["networks"] == ["inside"]}
    assert inside == {"postgres", "worker", *MIGRATIONS}


def test_our_processes_are_confined_and_no_image_names_a_registry() -> None:
    for name in (*RUNNING, *MIGRATIONS):
        assert SERVICES[name]["read_only"] is True
        assert SERVICES[name]["cap_drop"] == ["ALL"]
        assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]
    for service in SERVICES.values():
        assert "/" not in service["image"].replace("${IMAGE_PREFIX:-}", "")
