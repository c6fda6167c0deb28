"""Child processes end together with their parent."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not offer it")

_PARENT = """
import functools, os, subprocess
from services.common.parent_death import die_with_parent

command = ["sh", "-c", "echo started; exec sleep 600"]
subprocess.Popen(command, preexec_fn=functools.partial(die_with_parent, os.getpid())).wait()
"""
_ORPHAN = """
import os
from services.common.parent_death import die_with_parent

die_with_parent(os.getpid())
print("survived")
"""


def test_a_child_dies_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        parent.kill()
        # The child holds the pipe too: it ends once both are gone.
        assert parent.communicate(timeout=30)[0] == b""


def test_a_child_whose_parent_has_died_already_ends_at_once() -> None:
    ended = subprocess.run([sys.executable, "-c", _ORPHAN], capture_output=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout) == (1, b"")
