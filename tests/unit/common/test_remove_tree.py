"""What a process has left is removed, whatever it has made of its directories."""

from pathlib import Path

from services.common.remove_tree import remove_tree
from tests.support.child_process import run_python
from tests.support.deep_directories import make_deep

_AS_NOBODY = """
import os, sys
from pathlib import Path
from services.common.remove_tree import remove_tree
os.chdir(sys.argv[1])
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for shut in (0o000, 0o300, 0o500):
    inner = Path("left", f"{shut:o}", "inner")
    inner.mkdir(parents=True)
    (inner / "file").touch()
    inner.chmod(shut)
    inner.parent.chmod(shut)
Path("left").chmod(0)
remove_tree(Path("left"))
print(os.listdir())
"""


def test_any_number_of_levels_is_removed_and_nothing_that_links_lead_to(tmp_path: Path) -> None:
    left = tmp_path / "left"
    for place in (left, left / "beside", tmp_path / "kept"):
        place.mkdir()
        (place / "file").touch()
    (left / "link").symlink_to(tmp_path / "kept", target_is_directory=True)
    make_deep(left)
    remove_tree(left)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").exists()


def test_directories_that_let_nobody_in_are_removed(tmp_path: Path) -> None:
    """Root gets in everywhere: it is tried as another user."""
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(0o777)
    assert run_python(["-c", _AS_NOBODY, str(place)]) == (0, "[]")


def test_what_is_not_there_or_no_directory_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    remove_tree(tmp_path / "file")
    remove_tree(tmp_path / "missing" / "directory")
    assert (tmp_path / "file").exists()
