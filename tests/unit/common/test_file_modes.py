"""Files of an installation are its own user's alone, also those that were there before with other modes."""

import errno
import os
import stat
from pathlib import Path

import pytest

from services.common.file_modes import close_to_others
from services.common.startup import StartError

OPEN = {
    "auth.db": 0o644,
    "auth.db-wal": 0o666,
    "audit.log.1": 0o640,
    "suite.lock": 0o600,
    "keys/services/auth.key": 0o644,
    "crewai/home/notes.txt": 0o604,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory as a copy with an open umask leaves it, with something in it that is not the installation's."""
    for name, mode in {**OPEN, "notes/mine.txt": 0o644, "mine.txt": 0o644}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        path.chmod(mode)
    for path in tmp_path.rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    (tmp_path / "keys" / "elsewhere").symlink_to(tmp_path / "mine.txt")
    tmp_path.chmod(0o755)
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_what_was_open_to_others_is_closed_and_nothing_else_is_touched(data: Path) -> None:
    close_to_others(data)
    for name, before in OPEN.items():
        assert mode(data / name) == before & 0o700, name
    for name in ("keys", "keys/services", "crewai", "crewai/home"):
        assert mode(data / name) == 0o700, name
    assert (mode(data / "mine.txt"), mode(data / "notes" / "mine.txt")) == (0o644, 0o644)
    assert (mode(data), mode(data / "notes")) == (0o755, 0o755)
    close_to_others(data)
    close_to_others(data / "not-there-yet")


@pytest.mark.parametrize("number", [errno.EPERM, errno.EROFS, errno.EINVAL])
def test_what_cannot_be_closed_from_here_is_refused_in_one_line(
    data: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(path: str, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "chmod", refuse)
    with pytest.raises(StartError) as refused:
        close_to_others(data)
    (line,) = str(refused.value).splitlines()
    assert "chmod -R go= " in line
    assert os.strerror(number) in line
    # A group of a volume's own is no stranger.
    for name in OPEN:
        monkeypatch.undo()
        (data / name).chmod(0o660)
    for path in data.rglob("*"):
        if path.is_dir():
            path.chmod(0o770)
    monkeypatch.setattr(os, "chmod", refuse)
    close_to_others(data)
