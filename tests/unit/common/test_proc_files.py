"""What the kernel says of this process."""

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.proc_files import read_proc, write_proc
from services.common.process_name import ProcessName

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


@pytest.fixture
def own_name() -> Iterator[str]:
    name = read_proc("comm").decode().strip()
    yield name
    write_proc("comm", name)


@pytest.mark.usefixtures("own_name")
def test_a_process_is_named_by_any_thread() -> None:
    naming = threading.Thread(target=ProcessName().change, args=("coxswain-test",))
    naming.start()
    naming.join()
    assert read_proc("comm") == b"coxswain-test\n"


def test_a_file_is_read_whole_and_closed() -> None:
    files = len(list(Path("/proc/self/fd").iterdir()))
    assert f"Pid:\t{os.getpid()}\n".encode() in read_proc("status")
    assert len(list(Path("/proc/self/fd").iterdir())) == files


def test_what_is_missing_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        read_proc("coxswain")
    with pytest.raises(OSError, match=r"\[Errno"):
        write_proc("status", "x")
