"""Rules about the repository itself that no linter keeps."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))

# Spelt in pieces, so that this file does not hold what it looks for.
REGISTRY_HOSTS = [
    "pypi" + ".org",
    "python" + "hosted",
    "npmjs" + ".",
    "crates" + ".io",
    "proxy.golang" + ".org",
    "rubygems" + ".org",
]
INDEX_OPTIONS = ["index-url" + " ", "index-url" + "=", "find-links" + " ", "trusted-host" + " "]
MACHINE_PATHS = re.compile(r"(?<![\w.$}/-])/(?:root|Users|work|home/(?!coxswain|nonroot)\w+)/")
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files are tracked")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()[:160]}"
            for number, line in enumerate(text.splitlines(), start=1)
            if pattern.search(line)
        ]
    return found


def pins(lock: Path) -> dict[str, set[str]]:
    """Versions by package; several where they differ by Python version."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(
        r"^([\w.-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE
    ):
        versions.setdefault(canonicalize_name(name), set()).add(version)
    return versions


def extras() -> dict[str, list[Requirement]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {name: [Requirement(line) for line in lines] for name, lines in project["optional-dependencies"].items()}


def direct_requirements(extra: str) -> list[Requirement]:
    found = []
    for requirement in extras()[extra]:
        if requirement.name == "coxswain":
            for other in requirement.extras:
                found += direct_requirements(other)
        else:
            found.append(requirement)
    return found


def test_no_tracked_file_names_a_package_registry() -> None:
    assert lines_with(re.compile("|".join(map(re.escape, REGISTRY_HOSTS)), re.IGNORECASE)) == []


def test_no_lock_chooses_where_packages_come_from() -> None:
    for lock in LOCKS:
        text = lock.read_text(encoding="utf-8")
        assert "://" not in text, lock.name
        assert not [option for option in INDEX_OPTIONS if f"--{option}" in text], lock.name


def test_no_tracked_file_holds_a_path_of_somebodys_machine() -> None:
    assert lines_with(MACHINE_PATHS) == []


def test_no_tracked_file_is_marked_unfinished() -> None:
    assert lines_with(UNFINISHED) == []


def test_generated_and_local_files_are_not_tracked() -> None:
    local = re.compile(
        r"^(?:gen|data|\.venv)/|(?:^|/)(?:uv\.lock|\.env|\.coverage)$|_pb2(?:_grpc)?\.pyi?$|\.pyc$|\.db$"
    )
    assert [name for path in tracked_files() if local.search(name := path.relative_to(ROOT).as_posix())] == []


def test_no_third_party_proto_is_copied_into_the_repository() -> None:
    protos = [path.relative_to(ROOT).as_posix() for path in tracked_files() if path.suffix == ".proto"]
    ours = ("protos/coxswain/", "services/orchestrator/worker/link/", "tests/")
    assert [name for name in protos if not name.startswith(ours)] == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_locked_package_has_a_version_and_a_hash(lock: Path) -> None:
    joined = lock.read_text(encoding="utf-8").replace("\\\n", " ")
    entries = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert entries
    for entry in entries:
        assert re.match(r"[\w.-]+(\[[^\]]*\])?==\S+ ", entry), entry[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}(?:\s|$)", entry), entry[:80]


@pytest.mark.parametrize("lock", [lock for lock in LOCKS if lock.stem != "all"], ids=lambda lock: lock.stem)
def test_every_lock_agrees_with_the_whole(lock: Path) -> None:
    whole = pins(ROOT / "requirements" / "all.txt")
    assert {name: versions for name, versions in pins(lock).items() if not versions <= whole.get(name, set())} == {}


@pytest.mark.parametrize("lock", [lock for lock in LOCKS if lock.stem != "all"], ids=lambda lock: lock.stem)
def test_every_lock_satisfies_its_extra(lock: Path) -> None:
    locked = pins(lock)
    for requirement in direct_requirements(lock.stem):
        versions = locked.get(canonicalize_name(requirement.name))
        assert versions, f"{requirement.name} is not in {lock.name}: run make lock"
        assert all(requirement.specifier.contains(version, prereleases=True) for version in versions), str(requirement)


def test_only_the_worker_and_the_developer_install_the_crew_library() -> None:
    assert {lock.stem for lock in LOCKS if "crewai" in pins(lock)} == {"all", "dev", "worker"}
