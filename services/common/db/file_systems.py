"""Which file systems SQLite's files may lie on."""

import re
from pathlib import Path

import structlog

from services.common.startup import StartError

logger = structlog.get_logger(__name__)

_MOUNTS = Path("/proc/self/mountinfo")
# Their locks and shared memory do not hold between machines, and often not between processes of one.
_REFUSED = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs"}
# What lies behind them is another machine or a program, whose locks may or may not hold.
_DOUBTED = {"9p", "acfs", "ceph", "coda", "gfs2", "gpfs", "lustre", "ocfs2", "prl_fs", "vboxsf", "virtiofs", "fuse"}
_LOCAL_FUSE = {"fuse.ext4", "fuse.fuse-overlayfs", "fuseblk"}
_ADVICE = "set COXSWAIN_DATA_DIR to a directory on a local disk, or COXSWAIN_DATABASE_URL to a PostgreSQL"

_warned: set[str] = set()


def check_file_system(database: Path) -> None:
    """Warn once if a file of SQLite would lie where its locks may not hold.

    Raises:
        StartError: it would lie where they do not.
    """
    directory = database.absolute().parent
    kind = file_system_of(directory)
    if kind in _REFUSED:
        raise StartError(
            f"{database} would lie on a network file system ({kind}), where SQLite's locks do not hold and databases "
            f"break: {_ADVICE}"
        )
    if _is_doubted(kind) and kind not in _warned:
        _warned.add(kind)
        logger.warning("sqlite_locks_doubted", directory=str(directory), file_system=kind, advice=_ADVICE)


def _is_doubted(kind: str) -> bool:
    return kind.split(".", maxsplit=1)[0] in _DOUBTED and kind not in _LOCAL_FUSE


def file_system_of(directory: Path) -> str:
    """Return the kernel's name of the file system that a directory, or the nearest one above it, lies on.

    It is empty where the kernel does not tell.
    """
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    # Later mounts hide earlier ones.
    kinds = {}
    for line in lines:
        before, _, after = line.partition(" - ")
        kinds[Path(_unescaped(before.split(" ")[4]))] = after.split(" ", 1)[0]
    directory = directory.resolve()
    return next((kinds[place] for place in (directory, *directory.parents) if place in kinds), "")


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)
