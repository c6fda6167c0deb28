"""Finds the crews in the directory of a project."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from coxswain.client.crewai_project.class_reader import crew_classes, flows
from coxswain.client.crewai_project.python_source import Module, Sources
from coxswain.client.documents import DocumentError, Problem

_MAX_DEPTH = 6
_MAX_DIRECTORIES = 4000
_SKIPPED = {"node_modules", "site-packages", "venv", "env", "build", "dist", "tests", "test", "__pycache__"}


@dataclass(frozen=True)
class Home:
    """The directory of one crew."""

    directory: Path
    config: Path | None
    """Directory of agents.yaml and tasks.yaml."""
    code: Module | None
    """The file with the crew's class."""
    class_name: str
    """The class in it; empty without code."""
    crew_method: str = ""
    """The method of the class that makes the crew, of several; empty for the one that is meant."""
    described: Path | None = None
    """The file that describes a crew in JSON, in a project that has nothing else."""


class Layout:
    """What a directory holds."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sources = Sources(_root(directory), directory)

    def home(self, crew_class: str) -> Home:
        """The one crew of the directory; ``crew_class`` is a class of it, or one of its methods (``Class.method``).

        Raises OSError when there is none, and DocumentError when there are several, or when the code of one cannot be
        read.
        """
        crew_class, _, method = crew_class.partition(".")
        homes = [home for one in self._homes() for home in self._with_code(one, crew_class)]
        homes = homes or [
            Home(directory, None, None, "", described=described)
            for directory in _directories(self.directory)
            if (described := json_file(directory, "crew")) is not None
        ]
        if not homes:
            raise FileNotFoundError(self._what_is_here())
        if crew_class and any(home.class_name == crew_class for home in homes):
            homes = [home for home in homes if home.class_name == crew_class]
        elif crew_class:
            names = ", ".join(home.class_name for home in homes if home.class_name) or "no class"
            raise DocumentError(self.directory, [Problem("", f"no @CrewBase class {crew_class!r} here, but {names}")])
        if len(homes) == 1:
            return replace(homes[0], crew_method=method)
        raise DocumentError(self.directory, [*self._choices(homes), *self.flows()])

    def flows(self) -> list[Problem]:
        """The flows of the project, which are not imported."""
        found = []
        for directory in _directories(self.directory):
            for file in sorted(directory.glob("*.py")):
                if b"Flow" not in _beginning(file):
                    continue
                module = self._module(file)
                for flow in flows(module) if module else []:
                    what = "a flow is not imported: import its crews, and start one after the other from your program"
                    found.append(Problem(flow.name, what, flow.lineno, module.file if module else ""))
        return found

    def _homes(self) -> list[Path]:
        given = self.directory
        # The directory of the two files, below the code.
        if given.resolve().name == "config" and _is_config(given):
            return [given.parent if given.name == "config" else given.resolve().parent]
        if self._is_home(given):
            return [given]
        return [directory for directory in _directories(given) if self._is_home(directory)]

    def _is_home(self, directory: Path) -> bool:
        if directory.name == "config" and _is_config(directory) and directory != self.directory:
            return False
        return _config(directory) is not None or any(b"CrewBase" in _beginning(one) for one in self._code_of(directory))

    def _code_of(self, directory: Path) -> list[Path]:
        files = sorted(directory.glob("*.py"), key=lambda path: (path.name != "crew.py", path.name))
        return [path for path in files if self.sources.holds(path)]

    def _with_code(self, directory: Path, crew_class: str) -> Iterator[Home]:
        config = _config(directory)
        found: list[Home] = []
        for path in self._code_of(directory):
            if path.name == "crew.py" or b"CrewBase" in _beginning(path):
                module = self.sources.read(path)
                found += [Home(directory, config, module, one.name) for one in crew_classes(module)]
                # crew.py is the one that is meant, unless a class of another file is asked for.
                if found and path.name == "crew.py" and not crew_class:
                    break
        yield from found or ([Home(directory, config, None, "")] if config else [])

    def _choices(self, homes: list[Home]) -> Iterator[Problem]:
        for home in homes:
            directory = self.sources.shown(home.directory)
            alone = [other.directory for other in homes].count(home.directory) == 1
            how = f"give its directory: {directory}" if alone else f"choose it with --crew-class {home.class_name}"
            name = home.class_name or home.directory.name
            file = home.code.file if home.code else directory
            line = next((one.lineno for one in crew_classes(home.code) if one.name == name), 0) if home.code else 0
            yield Problem(name, f"one of {len(homes)} crews here; {how}", line, file)

    def _module(self, path: Path) -> Module | None:
        try:
            return self.sources.read(path)
        except (OSError, DocumentError):
            return None

    def _what_is_here(self) -> str:
        looked = f"{self.directory}: no agents.yaml and tasks.yaml here or below, no @CrewBase class, and no crew.jsonc"
        for directory in _directories(self.directory):
            names = {path.name for path in directory.iterdir() if path.suffix == ".py"}
            where = self.sources.shown(directory)
            code = sorted(name for name in names if b"crewai" in _beginning(directory / name))
            if code:
                return (
                    f"{looked}; {', '.join(code)} in {where} uses CrewAI in plain Python, which is not read: move the "
                    "texts of agents and tasks to config/agents.yaml and config/tasks.yaml with a @CrewBase class in "
                    "crew.py, or write a crew file (docs/from-crewai.md shows both)"
                )
        return looked


def json_file(directory: Path, name: str) -> Path | None:
    """The file of a name that describes something in JSON; the one that may have comments goes first."""
    files = (directory / f"{name}{suffix}" for suffix in (".jsonc", ".json"))
    return next((file for file in files if file.is_file()), None)


def _root(directory: Path) -> Path:
    """The directory that holds the whole project: nothing outside of it is read."""
    resolved = directory.resolve()
    for parent in [resolved, *list(resolved.parents)[:_MAX_DEPTH]]:
        if (parent / "pyproject.toml").is_file():
            return parent
    return resolved.parent if resolved.name == "config" else resolved


def _directories(top: Path) -> Iterator[Path]:
    """A directory and those below it, by level; without hidden ones and those of installed packages."""
    waiting = [(top, 0)]
    seen = 0
    while waiting and seen < _MAX_DIRECTORIES:
        directory, depth = waiting.pop(0)
        seen += 1
        yield directory
        if depth == _MAX_DEPTH:
            continue
        try:
            inner = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in inner:
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".") and entry.name not in _SKIPPED:
                waiting.append((Path(entry.path), depth + 1))


def _config(directory: Path) -> Path | None:
    return next((one for one in (directory / "config", directory) if _is_config(one)), None)


def _is_config(directory: Path) -> bool:
    return (directory / "agents.yaml").is_file() and (directory / "tasks.yaml").is_file()


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(1024 * 1024)
    except OSError:
        return b""
