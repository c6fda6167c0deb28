"""What a process has written is to lie in huge pages, and stays what it was."""

import ctypes
import mmap
from itertools import pairwise

import pytest

from services.common import kernel
from services.orchestrator.worker.crew.huge_pages import collapse_memory

_HUGE = 2 << 20
_BYTES = 8 * _HUGE


def test_written_memory_is_asked_for_in_whole_huge_pages_and_unchanged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = mmap.mmap(-1, _BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    written = bytes(range(256)) * (_BYTES // 256)
    memory.write(written)
    view = ctypes.c_char.from_buffer(memory)
    first = ctypes.addressof(view)
    ranges: list[tuple[int, int]] = []
    call = kernel.system_call

    def note(name: str, start: int, length: int, advice: int) -> int:
        ranges.append((start, start + length))
        return call(name, start, length, advice)

    monkeypatch.setattr(kernel, "system_call", note)
    collapse_memory()
    assert memory[:] == written
    if kernel.MACHINE:
        assert all(start % _HUGE == end % _HUGE == 0 < end - start for start, end in ranges)
        assert all(end <= start for (_, end), (start, _) in pairwise(sorted(ranges)))
        whole = range(-(-first // _HUGE) * _HUGE, (first + _BYTES) // _HUGE * _HUGE, _HUGE)
        assert all(any(start <= page < end for start, end in ranges) for page in whole)
    del view


def test_a_kernel_that_does_not_collapse_memory_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(name: str, *_arguments: object) -> int:
        asked.append(name)
        raise OSError

    memory = mmap.mmap(-1, _BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    monkeypatch.setattr(kernel, "system_call", refuse)
    collapse_memory()
    memory.close()
    assert set(asked) == ({"madvise"} if kernel.MACHINE else set())
