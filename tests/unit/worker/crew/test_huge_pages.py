"""What a process has written is put into huge pages, and says what it said before."""

import mmap
import re
from pathlib import Path

import pytest

from services.common import kernel
from services.orchestrator.worker.crew.huge_pages import collapse_memory

_KIBIBYTES = 16 * 1024


def _in_huge_pages() -> int:
    """Return how many KiB of this process's memory are in huge pages."""
    found = re.search(r"^AnonHugePages: +(\d+) kB$", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def _can_collapse() -> bool:
    if not kernel.MACHINE:
        return False
    version = tuple(map(int, re.findall(r"\d+", Path("/proc/sys/kernel/osrelease").read_text())[:2]))
    return version >= (6, 1) and Path("/sys/kernel/mm/transparent_hugepage").is_dir()


def test_memory_that_was_written_is_put_into_huge_pages_unchanged() -> None:
    if not _can_collapse():
        pytest.skip("this kernel collapses no memory when asked")
    memory = mmap.mmap(-1, _KIBIBYTES * 1024, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    written = bytes(range(256)) * (_KIBIBYTES * 4)
    memory.write(written)
    memory.madvise(mmap.MADV_HUGEPAGE)
    before = _in_huge_pages()
    collapse_memory()
    # The first and the last part of it may lie in no whole huge page.
    assert _in_huge_pages() >= before + _KIBIBYTES - 2 * 2048
    assert memory[:] == written
    memory.close()


def test_a_kernel_that_does_not_collapse_memory_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(name: str, *_arguments: object) -> int:
        asked.append(name)
        raise OSError

    monkeypatch.setattr(kernel, "system_call", refuse)
    collapse_memory()
    assert set(asked) <= {"madvise"}
