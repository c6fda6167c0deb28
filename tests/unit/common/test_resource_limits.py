"""A program that starts processes without end is stopped by the kernel, and nobody else of its user."""

import os
import resource
import subprocess
import sys

import pytest

STARTS = """
import os
from services.common.resource_limits import limit_processes
# The kernel asks nothing of root.
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(54321)
    os.setuid(54321)
limit_processes(8)
children = []
try:
    while len(children) < 100:
        child = os.fork()
        if not child:
            os.read(0, 1)
            os._exit(0)
        children.append(child)
except BlockingIOError:
    pass
print(len(children))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux counts so")
def test_a_program_that_starts_processes_without_end_is_stopped() -> None:
    before = resource.getrlimit(resource.RLIMIT_NPROC)
    # Its children wait for the end of its input.
    command, environment = [sys.executable, "-c", STARTS], {**os.environ, "PYTHONPATH": "."}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as program:
        output, _ = program.communicate(timeout=60)
    # What others of the user start or end meanwhile counts as well.
    assert 1 <= int(output.split()[0]) < 60
    assert resource.getrlimit(resource.RLIMIT_NPROC) == before
