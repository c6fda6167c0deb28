"""Each image holds the code its entry points import, and none of another service's."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp
import pytest

from services.common.settings import SERVICES
from tests.unit.deploy.manifests import ROOT
from tests.unit.deploy.test_files import DOCKERFILE, MODULES

# Imported by name: what makes and fills a database, and the fork server of crew processes.
BY_NAME = {
    **{service: ("services.common.db.migrate", f"services.{service}.seed") for service in SERVICES},
    "worker": ("services.orchestrator.worker.crew.fork_server",),
    "tools": ("services.orchestrator.tool_gateway.parsing.process",),
}
# Imported where it is configured alone; its lock is another one.
NOT_INSTALLED = {"memory": {"chromadb"}}


def stages() -> dict[str, tuple[str, list[str]]]:
    """Each stage of the Dockerfile: what it starts from, and what code it copies; protos are only generated from."""
    found: dict[str, tuple[str, list[str]]] = {}
    for text in re.split(r"^(?=FROM )", DOCKERFILE, flags=re.MULTILINE)[1:]:
        head = re.match(r"FROM (\S+)(?: AS (\S+))?", text)
        assert head is not None
        found[head[2] or ""] = (head[1], re.findall(r"^COPY (services\S*)(?<!\.proto) ", text, re.MULTILINE))
    return found


def copied(image: str) -> Iterator[Path]:
    """What the code of an image is copied from."""
    known = stages()
    stage = f"{image}-code"
    while stage in known:
        stage, sources = known[stage]
        for source in sources:
            yield from ROOT.glob(source)


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("services", cache_dir=None)


def imported(image: str) -> set[Path]:
    """The files of all modules that an image's entry points import, however indirectly."""
    entries = {f"{MODULES[image]}.__main__", *BY_NAME[image]} & graph().modules
    modules = entries.union(*(graph().find_upstream_modules(entry) for entry in entries))
    files = set()
    for module in modules:
        path = ROOT.joinpath(*module.split("."))
        files.add(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))
    return files


@pytest.mark.parametrize("image", MODULES)
def test_an_image_holds_every_module_its_entry_points_import(image: str) -> None:
    held = set(copied(image))
    missing = [str(path) for path in imported(image) if held.isdisjoint({path, *path.parents})]
    assert missing == []


def required(path: Path) -> Iterator[str]:
    """The packages that a module imports as soon as it is imported itself."""
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            yield (statement.module or "").partition(".")[0]


@pytest.mark.parametrize("image", MODULES)
def test_an_image_installs_every_package_its_entry_points_import(image: str) -> None:
    locked = (ROOT / "requirements" / f"{image}.txt").read_text(encoding="utf-8")
    installed = {_normal(name) for name in re.findall(r"^([\w.-]+)==", locked, re.MULTILINE)}
    of_packages = packages_distributions()
    own = {"services", *(folder.name for folder in (ROOT / "gen").iterdir()), *sys.stdlib_module_names}
    needed = {name for path in imported(image) for name in required(path)} - own - NOT_INSTALLED.get(image, set())
    missing = {name for name in needed if installed.isdisjoint(map(_normal, of_packages.get(name, [name])))}
    assert missing == set()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("image", MODULES)
def test_an_image_holds_no_other_service_and_no_package_it_does_not_use(image: str) -> None:
    own = ROOT.joinpath(*MODULES[image].split(".")[:2])
    used = {parent for path in imported(image) for parent in path.parents}
    for path in copied(image):
        assert path.parent == ROOT / "services" or own in {path, path.parent}, path
        # Histories are read by name from the service's directory.
        assert path.is_file() or path in used or path == own / "migrations", path


def test_the_image_of_an_api_holds_no_worker_and_no_gateway() -> None:
    assert ROOT / "services/orchestrator/tool_gateway" not in {*copied("orchestrator"), *copied("worker")}
    assert ROOT / "services/orchestrator/worker" not in set(copied("orchestrator"))
    assert not any("rm -r" in line for line in DOCKERFILE.splitlines())


def test_every_image_has_an_sbom_of_the_lock_that_it_installs() -> None:
    (build,) = re.findall(r"^FROM \S+ AS build$(.*?)^FROM ", DOCKERFILE, re.MULTILINE | re.DOTALL)
    installed = build.index("--python /app/venv/bin/python requirements/${SERVICE}.txt")
    assert installed < build.index("sbom/bin/python supply_chain/sbom.py /app/sbom ${SERVICE}")
    assert "COPY --from=app /app /app" in DOCKERFILE
