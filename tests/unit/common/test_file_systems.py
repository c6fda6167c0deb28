"""SQLite's files stay off file systems whose locks do not hold."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.common.db import file_systems
from services.common.db.file_systems import check_file_system, file_system_of
from services.common.db.start import wait_for_database
from services.common.startup import StartError

ADVICE = "set COXSWAIN_DATA_DIR to a directory on a local disk, or COXSWAIN_DATABASE_URL to a PostgreSQL"


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Mount some file systems below a directory, as far as the kernel's table of them says."""
    kinds = {
        "": "ext4",
        "share of all": "nfs4",
        "share of all/disk": "xfs",
        "windows": "cifs",
        "host": "9p",
        "ssh": "fuse.sshfs",
        "overlay": "fuse.fuse-overlayfs",
        "usb": "fuseblk",
        "over": "nfs",
    }
    root = tmp_path.resolve()
    lines = [f"{number} 1 0:{number} / {_place(root, name)} rw,relatime shared:1 - {kind} server:/x rw,vers=4"
             for number, (name, kind) in enumerate(kinds.items())]  # fmt: skip
    lines.append(f"90 1 0:90 / {_place(root, 'over')} rw - tmpfs none rw")
    mounts = tmp_path / "mountinfo"
    mounts.write_text("1 0 0:1 / / rw - overlay none rw\n" + "\n".join(lines) + "\n")
    monkeypatch.setattr(file_systems, "_MOUNTS", mounts)
    monkeypatch.setattr(file_systems, "_warned", set())
    return root


def _place(root: Path, name: str) -> str:
    return str(root / name).replace(" ", "\\040")


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("data", "ext4"),
        ("share of all", "nfs4"),
        ("share of all/not/there/yet", "nfs4"),
        ("share of all/disk/data", "xfs"),
        ("over/data", "tmpfs"),
        ("../elsewhere", "overlay"),
    ],
)
def test_the_nearest_and_latest_mount_says_which_file_system_it_is(mounted: Path, place: str, kind: str) -> None:
    assert file_system_of(mounted / place) == kind


@pytest.mark.parametrize(("place", "kind"), [("share of all", "nfs4"), ("windows", "cifs")])
async def test_network_file_systems_are_refused_with_what_to_do(mounted: Path, place: str, kind: str) -> None:
    file = mounted / place / "auth.db"
    with pytest.raises(StartError) as refused:
        await wait_for_database(f"sqlite:///{file}", "auth", 0)
    assert str(refused.value) == (
        f"{file} would lie on a network file system ({kind}), where SQLite's locks do not hold and databases break: "
        f"{ADVICE}"
    )
    assert not file.parent.exists()


def test_doubtful_file_systems_are_warned_of_once(mounted: Path) -> None:
    with capture_logs() as logged:
        for place in ("host", "host", "ssh", "overlay", "usb", "data", "share of all/disk"):
            check_file_system(mounted / place / "auth.db")
    assert [(line["event"], line["file_system"]) for line in logged] == [
        ("sqlite_locks_doubted", "9p"),
        ("sqlite_locks_doubted", "fuse.sshfs"),
    ]
    assert logged[0]["directory"] == str(mounted / "host")
    assert logged[0]["advice"] == ADVICE


def test_nothing_is_said_where_the_kernel_tells_nothing(mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_systems, "_MOUNTS", mounted / "none")
    check_file_system(mounted / "windows" / "auth.db")
