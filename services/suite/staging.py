"""Puts the stores of an installation in their places once all of them are whole."""

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from services.common.startup import StartError

_STAGED = "restore.partial"
# An empty directory may hold the mark of a file system's root, and what a restore left that was killed.
_NOTHING = {"lost+found", _STAGED}
# A file of SQLite and what it would take for its own.
_PARTS = ("", "-wal", "-journal")


@contextlib.contextmanager
def staged(data: Path, stores: Iterable[Path]) -> Iterator[Callable[[Path], Path]]:
    """Yield where to make what belongs at a path; put all in place when the block ends, and nothing when it raises.

    `data` is the data directory. What lies in no other place is made beside it and renamed, except in a directory that
    is there, which may be a mount point: that is filled from within.

    Raises:
        StartError: a place is not empty.
    """
    places = {data, *stores}
    roots = [place for place in places if places.isdisjoint(place.parents)]
    # The data directory last: a suite that finds it looks for the rest.
    roots.sort(key=lambda root: root == data)
    for root in roots:
        if _is_taken(root):
            raise StartError(f"{root} is not empty: a restore overwrites nothing")
    made = {root: root / _STAGED if root.is_dir() else root.with_name(f"{root.name}.partial") for root in roots}

    def staged_path(path: Path) -> Path:
        root = next(root for root in roots if path.is_relative_to(root))
        return made[root] / path.relative_to(root)

    for path in made.values():
        _remove(path)
    try:
        yield staged_path
        for root, path in made.items():
            _put_in_place(path, root)
    finally:
        for path in made.values():
            _remove(path)


def _is_taken(root: Path) -> bool:
    if root.is_dir():
        return any(path.name not in _NOTHING for path in root.iterdir())
    return any(root.with_name(root.name + part).exists() for part in _PARTS)


def _put_in_place(made: Path, root: Path) -> None:
    if not made.exists():
        return
    if made.parent != root:
        made.rename(root)
        return
    for path in list(made.iterdir()):
        path.rename(root / path.name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
