"""The release before this one: where its code is, and the tables of a service as that code describes them.

It is the newest tag. Where there is no tag yet, it is for each service what stood before the newest migration. Exports
of the tree and shallow clones have no history: there, `make previous-release` in a clone gives an archive to put in.
"""

import argparse
import importlib
import io
import subprocess
import sys
import tarfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData

from services.common.db.migrate import alembic_config
from services.common.settings import SERVICES
from tests.support.child_process import ROOT

ARCHIVE = ROOT / "build" / "previous-release.tar"
"""Stands in for the history where there is none."""


class NoPreviousRelease(Exception):
    """Neither the history nor an archive has the release before this one."""


def previous_commit(services: Iterable[str] = SERVICES) -> str:
    """Return the commit of the release before this one, or of what these services were before their newest migration.

    Raises:
        NoPreviousRelease: there is no history, or it does not reach back far enough.
    """
    tag = _git("describe", "--tags", "--abbrev=0", "HEAD^", may_fail=True)
    if tag:
        return _git("rev-parse", f"{tag}^{{commit}}")
    places = [f"services/{service}/migrations/versions" for service in services]
    if _git("status", "--porcelain", "--", *places):
        return _git("rev-parse", "HEAD")
    newest = _git("log", "-1", "--no-renames", "--diff-filter=A", "--format=%H", "--", *places)
    return _git("rev-parse", "--verify", "--quiet", f"{newest}^")


def _git(*arguments: str, may_fail: bool = False) -> str:
    if not (ROOT / ".git").exists():
        raise NoPreviousRelease("this is not a clone")
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode and not may_fail:
        raise NoPreviousRelease(f"the history has no such commit: git {' '.join(arguments)}: {done.stderr.strip()}")
    return "" if done.returncode else done.stdout.strip()


def extract(directory: Path, services: Iterable[str] = SERVICES, paths: Iterable[str] = ()) -> str:
    """Write the previous release's tree, or only some paths of it, into a directory; return where it is from.

    Raises:
        NoPreviousRelease: there is neither a history nor an archive.
    """
    try:
        commit = previous_commit(services)
    except NoPreviousRelease as error:
        if not ARCHIVE.exists():
            raise NoPreviousRelease(f"{error}; make previous-release, in a clone, writes {ARCHIVE}") from None
        content, source = ARCHIVE.read_bytes(), str(ARCHIVE)
    else:
        content, source = _archive(commit, paths), commit
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        # Python 3.11 has known the argument `filter` since 3.11.4 alone.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(directory)
    return source


def _archive(commit: str, paths: Iterable[str]) -> bytes:
    arguments = ["git", "archive", "--format=tar", commit, "--", *paths]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, check=True).stdout


@dataclass(frozen=True, slots=True)
class FormerTables:
    """The tables of a service as the previous release knows them."""

    revision: str
    """That release's newest migration."""
    metadata: MetaData | None
    """None where that release's code is not at hand: its tables are then read from a schema of its revision."""

    def of(self, connection: Connection) -> MetaData:
        """Return the tables, by a connection to a schema of that release's revision."""
        if self.metadata is not None:
            return self.metadata
        read = MetaData()
        # The tables behind indexes for searching texts are no business of the code.
        read.reflect(connection, only=lambda name, _: name != "alembic_version" and "_fts" not in name)
        return read


def former_tables(service: str, directory: Path) -> FormerTables:
    """Return the tables of a service in the previous release, whose code is written into an empty directory.

    Without that code the schema before the newest migration speaks for it, and a warning says so.
    """
    package = f"services/{service}"
    try:
        extract(directory, [service], ["services/__init__.py", "services/common", package])
    except NoPreviousRelease as error:
        warnings.warn(f"{service}: the schema before its newest migration stands in: {error}", stacklevel=2)
        scripts = ScriptDirectory.from_config(alembic_config(service))
        head = scripts.get_revision("head")
        return FormerTables(revision=str(head.down_revision), metadata=None)
    config = alembic_config(service)
    config.set_main_option("version_locations", str(directory / package / "migrations" / "versions"))
    revision = ScriptDirectory.from_config(config).get_current_head()
    with _code_of(directory):
        metadata = importlib.import_module(f"services.{service}.tables").metadata
    return FormerTables(revision=str(revision), metadata=metadata)


@contextmanager
def _code_of(directory: Path) -> Iterator[None]:
    """Let `services` be the package in a directory meanwhile. What was imported before or in the block stays usable."""
    ours = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "services"}
    sys.path.insert(0, str(directory))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(directory))
        for name in [name for name in sys.modules if name.split(".")[0] == "services"]:
            del sys.modules[name]
        sys.modules.update(ours)


def main() -> None:
    """Write the archive."""
    argparse.ArgumentParser(description=f"Write {ARCHIVE}.").parse_args()
    commit = previous_commit()
    ARCHIVE.parent.mkdir(exist_ok=True)
    ARCHIVE.write_bytes(_archive(commit, ()))
    print(f"{ARCHIVE} holds {commit}")


if __name__ == "__main__":
    main()
