"""The product as processes, in both deployments, with an emulated model behind it."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.e2e.support import ALICE, Scene
from tests.support.child_process import ROOT, ChildProcess
from tests.support.installation import Caller, Installation
from tests.support.llm_emulator import LlmEmulator
from tests.support.service_processes import ServiceProcesses
from tests.support.suite_process import SuiteProcess
from tools.typescript_client import build, has_modules, missing_programs

API_KEY = "sk-emulated-0123456789"
WORKER_MODULE = "services.orchestrator.worker.host.host"
WATCHED = f"crewai,litellm,{WORKER_MODULE}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test here the time that a loaded machine needs to start an installation."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("chaos") is None:
            item.add_marker(pytest.mark.timeout(400))


@pytest.fixture(scope="session")
def shared_llm() -> Iterator[LlmEmulator]:
    """The upstream of all models that need one, with whatever script the test before has left."""
    with LlmEmulator() as emulator:
        yield emulator


@pytest.fixture
def llm(shared_llm: LlmEmulator) -> Iterator[LlmEmulator]:
    """The upstream of all models, without a script; nothing hangs beyond the test."""
    shared_llm.clear_rules()
    shared_llm.clear_log()
    yield shared_llm
    shared_llm.release()


@pytest.fixture(scope="session")
def model_environment(shared_llm: LlmEmulator) -> dict[str, str]:
    """What points an installation at the emulated upstream, and lets tools call this machine."""
    return {
        "OPENAI_API_KEY": API_KEY,
        "OPENAI_BASE_URL": f"{shared_llm.url}/v1",
        "OLLAMA_BASE_URL": f"{shared_llm.url}/ollama/v1",
        # Nobody answers there.
        "VLLM_BASE_URL": "http://127.0.0.1:9/v1",
        "COXSWAIN_TOOLS_EGRESS_ALLOWED_NETWORKS": '["127.0.0.0/8"]',
    }


@pytest.fixture(scope="session")
def witness(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment that has processes note in `WITNESS_FILE` when they import what serving processes must not."""
    return {
        "PYTHONPATH": str(Path(__file__).parents[1] / "support" / "witness"),
        "WITNESS_FILE": str(tmp_path_factory.mktemp("witness") / "notes.jsonl"),
        "WITNESS_MODULES": WATCHED,
    }


@pytest.fixture(scope="session")
def suite(
    tmp_path_factory: pytest.TempPathFactory, model_environment: dict[str, str], witness: dict[str, str]
) -> Iterator[SuiteProcess]:
    """Everything on one port, on SQLite."""
    data_dir = tmp_path_factory.mktemp("suite") / "data"
    with SuiteProcess(data_dir, environment=model_environment | witness).running() as running:
        yield running


@pytest.fixture(scope="session")
def service_processes(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: str,
    model_environment: dict[str, str],
    witness: dict[str, str],
) -> Iterator[ServiceProcesses]:
    """Each service a process of its own, on PostgreSQL, with TLS for callers and mutual TLS between each other."""
    directory = tmp_path_factory.mktemp("processes")
    environment = model_environment | witness
    with ServiceProcesses(
        directory / "data", postgres_server, environment, certificates=directory / "tls"
    ).running() as running:
        yield running


@pytest.fixture(scope="session")
def typescript_client() -> Path:
    """The directory in which the TypeScript client is built; `make test` has installed its modules."""
    if missing := missing_programs():
        pytest.skip(f"not installed: {', '.join(missing)}")
    directory = ROOT / "build" / "typescript"
    if not has_modules(directory):
        pytest.skip("the client's modules are not installed: make typescript-modules says why")
    build(directory)
    return directory


@pytest.fixture(params=["suite", "service_processes"])
def installation(request: pytest.FixtureRequest) -> Installation:
    """Each test that asks for it runs on both deployments. They are shared: a test leaves nothing running."""
    running: Installation = request.getfixturevalue(request.param)
    running.restore_workers()
    return running


@pytest.fixture
def alice(installation: Installation) -> Iterator[Caller]:
    """An editor of the group "sales"."""
    with installation.caller(ALICE) as caller:
        yield caller


@pytest.fixture
def scene(llm: LlmEmulator) -> Scene:
    """A crew and a scripted model of this test's own."""
    return Scene(llm)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the processes printed last when a test fails."""
    report = yield
    if report.failed:
        report.sections.extend(
            (f"output of {process.name} ({process.pid})", process.tail) for process in ChildProcess.started
        )
    return report
