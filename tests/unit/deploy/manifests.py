"""Reads what is deployed: the files as they are written, and as kustomize puts them together."""

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pydantic import AliasChoices
from pydantic_settings import BaseSettings

from services.auth.limit_settings import LimitSettings
from services.auth.settings import AuthSettings
from services.common.settings import PARTS, SERVICES, CommonSettings, ServiceSettings
from services.memory.settings import MemorySettings
from services.models.settings import ModelsSettings
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.tool_gateway.settings import ToolGatewaySettings
from services.orchestrator.worker.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[3]
K8S = ROOT / "deploy" / "k8s"
PROD = K8S / "overlays" / "prod"
DEV = K8S / "overlays" / "dev"
OLDEST_KUBERNETES = "1.30"
OPERATORS = {"monitoring.coreos.com/v1", "keda.sh/v1alpha1"}
SERVERS = ("auth", "models", "memory", "orchestrator")
GATEWAY = "tools"
"""Served like a service, and called by the orchestrator and its workers alone."""

Document = dict[str, Any]

# A megabyte of definitions, which would be read again for each document.
kubernetes_validate.utils.schema_contents = cache(kubernetes_validate.utils.schema_contents)


def read(path: Path) -> list[Document]:
    return [document for document in yaml.load_all(path.read_text(encoding="utf-8"), yaml.CSafeLoader) if document]


def kustomizations() -> dict[Path, Document]:
    """The kustomization of each directory that has one."""
    return {path.parent: read(path)[0] for path in sorted(K8S.rglob("kustomization.yaml"))}


def resource_files() -> list[Path]:
    files = [
        directory / name
        for directory, kustomization in kustomizations().items()
        for name in kustomization.get("resources", [])
    ]
    return [path for path in files if path.is_file()]


def all_files() -> list[Path]:
    return sorted(K8S.rglob("*.yaml"))


def base(kind: str) -> dict[str, Document]:
    """The documents of one kind by name, as the files of the base hold them."""
    return {
        document["metadata"]["name"]: document
        for path in resource_files()
        if path.parent.name == "base"
        for document in read(path)
        if document["kind"] == kind
    }


def literals(*directories: Path) -> dict[str, str]:
    """The variables of the settings, later directories over earlier ones."""
    found: dict[str, str] = {}
    for directory in directories:
        for generator in kustomizations()[directory].get("configMapGenerator", []):
            found |= dict(literal.split("=", 1) for literal in generator["literals"])
    return found


def prod_settings() -> dict[str, str]:
    return literals(K8S / "base", K8S / "components" / "tls", PROD)


def walk(node: object) -> Iterator[Document]:
    """Every mapping within a document."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from walk(item)


def container(workload: Document) -> Document:
    (only,) = workload["spec"]["template"]["spec"]["containers"]
    found: Document = only
    return found


def check(document: Document) -> None:
    """Have a document of Kubernetes' own kinds validated; those of operators have no schema here."""
    if document["apiVersion"] not in OPERATORS:
        kubernetes_validate.validate(document, OLDEST_KUBERNETES, strict=True)


def render(directory: Path) -> list[Document]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed: only the files themselves are checked")
    text = subprocess.run([kubectl, "kustomize", directory], check=True, capture_output=True, text=True).stdout
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]


def variables_of(settings: type[BaseSettings], prefix: str = "") -> set[str]:
    prefix = prefix or settings.model_config["env_prefix"]
    names = set()
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        if isinstance(alias, AliasChoices):
            names |= {choice for choice in alias.choices if isinstance(choice, str)}
        else:
            names.add(alias if isinstance(alias, str) else f"{prefix}{name.upper()}")
    return names


def known_variables() -> set[str]:
    """The names of all environment variables that are settings of the code."""
    names = variables_of(CommonSettings)
    for service in (*SERVICES, *PARTS):
        names |= variables_of(ServiceSettings, f"COXSWAIN_{service.upper()}_")
    for settings in (
        AuthSettings,
        LimitSettings,
        ModelsSettings,
        MemorySettings,
        OrchestratorSettings,
        WorkerSettings,
        ToolGatewaySettings,
    ):
        names |= variables_of(settings)
    return names
