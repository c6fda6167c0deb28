"""The package of the client works outside of the checkout: its wheel, with the locked packages alone."""

import asyncio
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from coxswain.client.version import VERSION
from services.common.release import RELEASE
from tests.support.harness import ALICE, serve_services

ROOT = Path(__file__).parents[3]
UV = Path(sys.executable).with_name("uv")

# One call of each service, a refusal with everything it says, and where the code comes from.
CALLS = """
import sys
import buf.validate.validate_pb2 as validate
import coxswain.client
from coxswain.client import Client, InvalidArgument, NotFound
from coxswain.memory.v1.memory_pb2 import ListNamespacesRequest
from coxswain.models.v1.model_pb2 import ListModelsRequest
from coxswain.orchestrator.v1.crew_pb2 import CreateCrewRequest, ListCrewsRequest

with Client(sys.argv[1], token=sys.argv[2]) as client:
    print(client.whoami().principal.group_id)
    print(len(client.models.ListModels(ListModelsRequest()).models) > 0)
    print(len(client.memory.ListNamespaces(ListNamespacesRequest()).namespaces))
    print(len(client.crews.ListCrews(ListCrewsRequest()).crews))
    try:
        client.get_crew("nobody")
    except NotFound as error:
        print(error.reason)
    try:
        client.crews.CreateCrew(CreateCrewRequest())
    except InvalidArgument as error:
        print(error.violations[0].field)
print(all(module.__file__.startswith(sys.prefix) for module in (coxswain.client, validate)))
"""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    # Nothing of the checkout is on the path of what runs, and what it imports is compiled once.
    dropped = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    ran = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the programs of an environment that has the wheel and the locked packages."""
    folder = tmp_path_factory.mktemp("elsewhere")
    build = ("--wheel", "--offline", "--no-build-isolation", "--quiet", "--python", sys.executable)
    run(UV, "build", *build, "--out-dir", folder, "clients/python")
    environment = folder / "environment"
    programs = environment / "bin"
    run(UV, "venv", "--quiet", "--offline", "--python", sys.executable, environment)
    lock = ("install", "--quiet", "--require-hashes", "--requirement", "requirements/client.txt")
    # As tools/bootstrap.sh does: pip knows sources of packages that uv has no name for.
    try:
        run(UV, "pip", *lock, "--python", programs / "python")
    except AssertionError:
        run(sys.executable, "-m", "pip", "--python", programs / "python", *lock)
    [wheel] = folder.glob("*.whl")
    run(UV, "pip", "install", "--offline", "--no-deps", "--quiet", "--python", programs / "python", wheel)
    return programs


def test_its_packages_are_complete_and_typed(installed: Path) -> None:
    run(UV, "pip", "check", "--python", installed / "python")
    [packages] = installed.parent.glob("lib/python3.*/site-packages")
    for service in ("auth", "client", "common", "memory", "models", "orchestrator", "tools"):
        assert (packages / "coxswain" / service / "py.typed").is_file()
    assert not (packages / "services").exists()


async def test_every_service_can_be_called(installed: Path, tmp_path: Path) -> None:
    async with serve_services(tmp_path / "data", "models", "memory", "orchestrator") as harness:
        call = (installed / "python", "-c", CALLS, harness.address, ALICE)
        printed = await asyncio.to_thread(run, *call, cwd=tmp_path)
        assert printed.split() == ["sales", "True", "0", "0", "NOT_FOUND", "spec.name", "True"]
        command = (installed / "coxswain", "--address", harness.address, "--token", ALICE, "crews")
        await asyncio.to_thread(run, *command, cwd=tmp_path)


def test_the_command_says_its_version(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "coxswain", "--version", cwd=tmp_path) == f"coxswain {VERSION}\n"


def test_the_checkout_and_the_package_agree() -> None:
    """On the version, and on the packages that are needed."""
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    package = tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert whole["version"] == VERSION == RELEASE

    def names(requirements: list[str]) -> set[str]:
        return {requirement.partition(">")[0].partition("=")[0] for requirement in requirements}

    assert names(package["dependencies"]) == names(whole["optional-dependencies"]["client"])
