"""Python files as trees. They are parsed and never run or imported."""

import ast
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from coxswain.client.documents import DocumentError, Problem

MAX_SOURCE_BYTES = 1024 * 1024
# Methods after which a list or a mapping is not what its assignment says.
MUTATORS = frozenset(
    {"append", "extend", "insert", "remove", "pop", "clear", "update", "setdefault", "sort", "reverse"}
)
_MAX_IMPORTS = 64
"""How many imports are followed to where one name is defined."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Import:
    """Where a name of a module comes from."""

    module: str
    """Dotted name. Example: ``notes.models``; empty for ``from . import models``."""
    level: int
    """Leading dots of a relative import."""
    name: str
    """What is imported from the module; empty for the module itself."""


@dataclass(eq=False)
class Module:
    """One Python file: its tree, and what its names stand for."""

    path: Path
    file: str
    """Path to show, from the directory that was given."""
    tree: ast.Module
    names: dict[str, ast.expr | None]
    """Variables of the module; None for one that is not always the same."""
    functions: dict[str, Function] = field(default_factory=dict)
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    imports: dict[str, Import] = field(default_factory=dict)
    stars: list[Import] = field(default_factory=list)
    """``from x import *``, in order."""

    def original(self, name: str) -> str:
        """What an imported name is called in its own module. Example: ``Agent`` for ``import Agent as Person``."""
        found = self.imports.get(name)
        return (found.name or found.module) if found else name


def parse(path: Path, file: str) -> Module:
    """The tree of a file.

    Raises OSError when it cannot be read and DocumentError, with the line, when it is too large, not Python of this
    version, oddly encoded or nested too deeply.
    """

    def fault(description: str, line: int = 0) -> DocumentError:
        return DocumentError(path, [Problem("", description, line)])

    with path.open("rb") as stream:
        data = stream.read(MAX_SOURCE_BYTES + 1)
    if len(data) > MAX_SOURCE_BYTES:
        raise fault(f"larger than {MAX_SOURCE_BYTES:,} bytes: only a file that people write is read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(data, filename=path.name)
    except SyntaxError as error:
        raise fault(f"not valid Python: {error.msg}", error.lineno or 0) from None
    except (RecursionError, MemoryError):
        raise fault("the code is nested too deeply to be read") from None
    except (ValueError, LookupError) as error:
        raise fault(f"not a Python file: {error}; save it as UTF-8") from None
    module = Module(path, file, tree, assignments(tree.body))
    for statement in statements(tree.body):
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                module.functions[statement.name] = statement
            case ast.ClassDef():
                module.classes[statement.name] = statement
            case ast.Import():
                for alias in statement.names:
                    # `import a.b` binds a; with `as` the whole.
                    bound = alias.asname or alias.name.partition(".")[0]
                    module.imports[bound] = Import(alias.name if alias.asname else bound, 0, "")
            case ast.ImportFrom():
                for alias in statement.names:
                    source = Import(statement.module or "", statement.level, alias.name)
                    if alias.name == "*":
                        module.stars.append(source)
                    else:
                        module.imports[alias.asname or alias.name] = source
    return module


def assignments(body: Iterable[ast.stmt]) -> dict[str, ast.expr | None]:
    """The variables of a block and their values; None where it is assigned again or only under a condition."""
    found: dict[str, ast.expr | None] = {}
    top = list(body)
    for statement in statements(top):
        always = any(statement is one for one in top)
        for target, value in _targets(statement):
            found[target] = value if always and target not in found else None
    return found


def _targets(statement: ast.stmt) -> Iterator[tuple[str, ast.expr | None]]:
    match statement:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                if isinstance(target, ast.Name):
                    yield target.id, value
                else:
                    yield from ((name, None) for name in _changed(target))
        case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
            yield name, value
        case ast.AugAssign(target=ast.Name(id=name)):
            yield name, None
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attr))) if attr in MUTATORS:
            yield name, None
        case ast.For(target=target) | ast.AsyncFor(target=target):
            yield from ((name.id, None) for name in ast.walk(target) if isinstance(name, ast.Name))
        case ast.With(items=items) | ast.AsyncWith(items=items):
            for item in items:
                if isinstance(item.optional_vars, ast.Name):
                    yield item.optional_vars.id, None


def _changed(target: ast.expr) -> Iterator[str]:
    """The variables that an assignment to several of them, or to an element of one, changes."""
    for node in ast.walk(target):
        if isinstance(node, ast.Subscript):
            node = node.value
        if isinstance(node, ast.Name) and (isinstance(node.ctx, ast.Store) or isinstance(target, ast.Subscript)):
            yield node.id


def statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a block and of the blocks in it, but not those of functions and classes. In order."""
    waiting = list(body)[::-1]
    while waiting:
        statement = waiting.pop()
        yield statement
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        inner: list[ast.stmt] = []
        for child in ast.iter_child_nodes(statement):
            if isinstance(child, ast.stmt):
                inner.append(child)
            elif isinstance(child, ast.ExceptHandler | ast.match_case):
                inner += child.body
        waiting += inner[::-1]


class Sources:
    """The Python files of a project, each parsed once. Files outside of its root are not read."""

    def __init__(self, root: Path, given: Path) -> None:
        self.root = root.resolve()
        self._given = given.resolve()
        self._modules: dict[Path, Module] = {}

    def shown(self, path: Path) -> str:
        """A path as notes show it, from the directory that was given."""
        return Path(os.path.relpath(path.resolve(), self._given)).as_posix()

    def holds(self, path: Path) -> bool:
        """Whether a path is a file in the project, symbolic links followed."""
        try:
            return path.resolve().is_relative_to(self.root) and path.is_file()
        except (OSError, ValueError, RuntimeError):
            return False

    def read(self, path: Path) -> Module:
        """The module of a file. Raises as ``parse``."""
        path = path.resolve()
        if path not in self._modules:
            self._modules[path] = parse(path, self.shown(path))
        return self._modules[path]

    def find(self, module: Module, dotted: str) -> tuple[Module, str] | None:
        """The module of the project in which a name of a module is defined, and the name there.

        ``dotted`` may go through a module: ``models.Note``. None when it is not in the project or cannot be read.
        """
        return self._find(module, dotted, set())

    def _find(self, module: Module, dotted: str, seen: set[tuple[Path, str]]) -> tuple[Module, str] | None:
        first, _, rest = dotted.partition(".")
        if not rest and (first in module.classes or first in module.functions or first in module.names):
            return module, first
        if len(seen) == _MAX_IMPORTS or (module.path, dotted) in seen:
            return None
        seen.add((module.path, dotted))
        source = module.imports.get(first)
        places = (
            # The last one that has the name counts.
            [(self._file_of(module, star.module, star.level), dotted) for star in reversed(module.stars)]
            if source is None
            else [self._behind(module, source, rest) or (None, "")]
        )
        for path, name in places:
            target = self._readable(path)
            if target and source is None and name.startswith("_") and "__all__" not in target.names:
                continue
            found = self._find(target, name, seen) if target else None
            if found is not None:
                return found
        return None

    def _readable(self, path: Path | None) -> Module | None:
        try:
            return self.read(path) if path else None
        except (OSError, DocumentError):
            return None

    def _behind(self, module: Module, source: Import, rest: str) -> tuple[Path, str] | None:
        """The file that an import leads to, and the name in it; ``rest`` is what follows the imported name."""
        if not source.name:
            # `import notes.models` and then `notes.models.Note`.
            package, _, last = f"{source.module}.{rest}".rpartition(".")
            target = self._file_of(module, package, 0) if rest else None
            return (target, last) if target else None
        if rest:
            # `from notes import models` and then `models.Note`.
            target = self._file_of(module, ".".join(filter(None, [source.module, source.name])), source.level)
            if target is not None:
                return target, rest
        target = self._file_of(module, source.module, source.level)
        return (target, ".".join(filter(None, [source.name, rest]))) if target else None

    def _file_of(self, module: Module, dotted: str, level: int) -> Path | None:
        here = module.path.resolve().parent
        if level:
            bases = [here.parents[level - 2]] if 2 <= level <= len(here.parents) + 1 else [here]
        else:
            above = [parent for parent in [here, *here.parents] if parent.is_relative_to(self.root)]
            bases = [*above, self.root / "src"]
        relative = Path(*dotted.split(".")) if dotted else Path()
        for base in bases:
            for candidate in (
                (base / relative).with_suffix(".py") if dotted else base / "__init__.py",
                base / relative / "__init__.py",
            ):
                if self.holds(candidate):
                    return candidate
        return None
