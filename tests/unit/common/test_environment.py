"""A refused setting is named as the operator wrote it, with its value, what is allowed and what it sets."""

import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from services.auth.limit_settings import LimitSettings
from services.auth.settings import AuthSettings
from services.common.environment import SettingsError, read_settings
from services.common.process_state import ProcessState
from services.common.runner import run, serve
from services.common.settings import PARTS, SERVICES, CommonSettings, ServiceSettings
from services.memory.settings import MemorySettings
from services.models.settings import ModelsSettings
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.tool_gateway.settings import ToolGatewaySettings
from services.orchestrator.worker.__main__ import serve as work
from services.orchestrator.worker.settings import WorkerSettings
from services.suite.__main__ import serve_suite
from services.suite.settings import SuiteSettings

OF_SERVICES: dict[str, type[BaseSettings]] = {
    "auth": AuthSettings,
    "models": ModelsSettings,
    "memory": MemorySettings,
    "orchestrator": OrchestratorSettings,
}
READERS: list[tuple[type[BaseSettings], str]] = [
    (CommonSettings, "COXSWAIN_"),
    (SuiteSettings, "COXSWAIN_"),
    (LimitSettings, "COXSWAIN_LIMIT_"),
    (WorkerSettings, "COXSWAIN_WORKER_"),
    (ToolGatewaySettings, "COXSWAIN_TOOLS_"),
    *((kind, f"COXSWAIN_{service.upper()}_") for service, kind in OF_SERVICES.items()),
    *((ServiceSettings, f"COXSWAIN_{service.upper()}_") for service in (*SERVICES, *PARTS)),
]
OWN_NAMES = {
    "openai_base_url": "OPENAI_BASE_URL",
    "azure_openai_endpoint": "AZURE_OPENAI_ENDPOINT",
    "databricks_host": "DATABRICKS_HOST",
    "ollama_base_url": "OLLAMA_BASE_URL",
    "vllm_base_url": "VLLM_BASE_URL",
    "null_pool": "USE_NULLPOOL",
    "tool_egress_allowed_networks": "COXSWAIN_TOOLS_EGRESS_ALLOWED_NETWORKS",
}
# Any text is one of these; the names of hosts are looked up when they are used.
FREE_TEXTS = {
    "address",
    "audit_log",
    "bootstrap_group",
    "default_embedding_model",
    "host",
    "key_ring",
    "databricks_audiences",
    "databricks_client_ids",
    "platform_admins",
    "shared_credential_groups",
}


@pytest.fixture(autouse=True)
def _logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that start in this process do not configure logging for all tests that follow."""
    monkeypatch.setattr("services.common.runner.configure_logging", lambda _level, **_: None)


def every_setting() -> Iterator[Any]:
    for kind, prefix in READERS:
        for name, field in kind.model_fields.items():
            variable = OWN_NAMES.get(name) if field.validation_alias else f"{prefix}{name.upper()}"
            for value in bad_values(name, field):
                yield pytest.param(kind, prefix, variable, value, field, id=f"{variable}={value[:12]}")


def bad_values(name: str, field: FieldInfo) -> list[str]:
    """Return a value of the wrong kind and, where JSON is asked for, one that is no JSON."""
    annotation = field.annotation
    members = get_args(annotation) if get_origin(annotation) in {Union, types.UnionType} else (annotation,)
    kind = next(member for member in members if member is not type(None))
    origin = get_origin(kind) or kind
    if origin in {int, float, bool} or origin is Literal:
        return ["abc"]
    if origin is Path or kind is SecretStr or name in FREE_TEXTS:
        return []
    if origin in {list, tuple, dict} or issubclass(origin, dict):
        # Lists with commas take any text; what is in them is checked.
        return ["-"] if "comma separated" in (field.description or "") else ["7", '["a"', "[{", "{"]
    return {
        "database_url": ["mysql://user:hunter2@db/x", "nonsense"],
        "bootstrap_admin": ["root"],
        "openai_base_url": ["ftp://example.com"],
        "azure_openai_endpoint": ["ftp://example.com"],
        "databricks_host": ["ftp://example.com"],
        "ollama_base_url": ["ftp://example.com"],
        "vllm_base_url": ["http://:8000"],
        "default_model": [""],
        "databricks_embedding_model": [""],
    }.get(name, ["x" * 1000])


@pytest.mark.parametrize(("kind", "prefix", "variable", "value", "field"), list(every_setting()))
def test_every_setting_says_what_is_wrong_with_it(
    kind: type[BaseSettings],
    prefix: str,
    variable: str,
    value: str,
    field: FieldInfo,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        read_settings(kind, prefix if kind is ServiceSettings else None)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f'{variable}="')
    assert field.description is not None
    assert field.description in line
    assert "must be" in line or "cannot be used" in line
    assert "hunter2" not in line


def test_the_suite_of_these_tests_knows_every_free_text() -> None:
    names = {name for kind, _ in READERS for name in kind.model_fields}
    assert names >= FREE_TEXTS


@pytest.mark.parametrize(
    ("kind", "variable", "value", "line"),
    [
        (
            CommonSettings,
            "COXSWAIN_PORT",
            "99999",
            'COXSWAIN_PORT="99999" must be a whole number from 0 to 65535. It sets: Port of the public listener',
        ),
        (
            CommonSettings,
            "COXSWAIN_IDENTITY_MODE",
            "none",
            'COXSWAIN_IDENTITY_MODE="none" must be "dev", "jwt" or "databricks". It sets: How callers prove who',
        ),
        (
            CommonSettings,
            "coxswain_drain_seconds",
            "-1",
            'coxswain_drain_seconds="-1" must be a number, at least 0. It sets: Seconds that running calls get',
        ),
        (
            ModelsSettings,
            "COXSWAIN_MODELS_LITELLM_BASE_URLS",
            '{"groq": ',
            '="{"groq": " must be a JSON object, and it is not valid JSON: Expecting value at character 10. It sets: ',
        ),
        (
            AuthSettings,
            "COXSWAIN_AUTH_OIDC_ISSUERS",
            '[{"issuer": "http://example.com", "audience": "x"}]',
            "[0].issuer: must begin with https://",
        ),
        (
            ModelsSettings,
            "COXSWAIN_MODELS_KEYLESS_ORIGINS",
            '["ftp://a"]',
            'COXSWAIN_MODELS_KEYLESS_ORIGINS="["ftp://a"]" must be origins in the form "https://HOST:PORT"',
        ),
        (
            ModelsSettings,
            "COXSWAIN_MODELS_EGRESS_ALLOWED_NETWORKS",
            '["10.0.0.0/99"]',
            '[0]: must be a network in the form "10.20.0.0/16"',
        ),
    ],
)
def test_a_line_can_be_read(
    kind: type[BaseSettings], variable: str, value: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        read_settings(kind)
    assert line in str(refused.value)


def test_settings_that_contradict_each_other_are_named_by_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COXSWAIN_WORKER_HEARTBEAT_SECONDS", "16")
    with pytest.raises(SettingsError) as refused:
        read_settings(WorkerSettings)
    assert "COXSWAIN_WORKER_HEARTBEAT_SECONDS" in str(refused.value)
    assert "COXSWAIN_WORKER_LEASE_SECONDS" in str(refused.value)


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COXSWAIN_AUTH_KEY_RING", "k1:hunter2")
    monkeypatch.setenv("COXSWAIN_AUTH_KEY_RING_FILE", "ring")
    with pytest.raises(SettingsError) as refused:
        read_settings(AuthSettings)
    assert "hunter2" not in str(refused.value)
    assert "COXSWAIN_AUTH_KEY_RING_FILE" in str(refused.value)


def test_every_refused_setting_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COXSWAIN_PORT", "abc")
    monkeypatch.setenv("COXSWAIN_LOG_LEVEL", "LOUD")
    with pytest.raises(SettingsError) as refused:
        read_settings(CommonSettings)
    assert {line.split("=")[0] for line in str(refused.value).splitlines()} == {"COXSWAIN_PORT", "COXSWAIN_LOG_LEVEL"}


def _build(_settings: object, _runtime: object) -> Any:
    raise AssertionError("no service is built with settings that are refused")


def _suite() -> None:
    async def main(common: CommonSettings, state: ProcessState) -> None:
        await serve_suite(common, state, postgres=False)

    run(main, "suite")


ENTRIES: dict[str, Callable[[], None]] = {
    **{service: lambda s=service: serve(s, _build, OF_SERVICES[s]) for service in OF_SERVICES},  # type: ignore[misc]
    "tools": lambda: serve("tools", _build, ToolGatewaySettings),
    "worker": lambda: run(partial(work, supervised=False), "worker"),
    "suite": _suite,
}


@pytest.mark.parametrize(
    ("entry", "variable"),
    [
        *((service, "COXSWAIN_MAX_MESSAGE_BYTES") for service in ENTRIES),
        *((service, f"COXSWAIN_{service.upper()}_PORT") for service in SERVICES),
        ("auth", "COXSWAIN_AUTH_VERIFIED_SECONDS"),
        ("models", "COXSWAIN_MODELS_MAX_ATTEMPTS"),
        ("memory", "COXSWAIN_MEMORY_CACHE_BYTES"),
        ("orchestrator", "COXSWAIN_ORCHESTRATOR_MAX_CREW_BYTES"),
        ("worker", "COXSWAIN_WORKER_SLOTS"),
        ("tools", "COXSWAIN_TOOLS_PORT"),
        ("tools", "COXSWAIN_TOOLS_MAX_RESULT_BYTES"),
        ("suite", "COXSWAIN_TOOLS_MAX_RESULT_BYTES"),
        ("worker", "COXSWAIN_ORCHESTRATOR_MAX_CREW_BYTES"),
        *(("suite", f"COXSWAIN_{part}") for part in ("WORKERS", "WORKER_SLOTS", "AUTH_VERIFIED_SECONDS")),
        *(("suite", f"COXSWAIN_{part}") for part in ("MODELS_MAX_ATTEMPTS", "MEMORY_CACHE_BYTES")),
    ],
)
def test_a_process_ends_with_the_line_and_nothing_else(
    entry: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COXSWAIN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv(variable, "abc")
    with pytest.raises(SystemExit) as ended:
        ENTRIES[entry]()
    assert ended.value.code == 2
    written = capfd.readouterr()
    assert written.out == ""
    assert written.err.startswith(f'{entry} cannot start: {variable}="abc" must be ')
    assert len(written.err.splitlines()) == 1
    assert not (tmp_path / "data").exists()
