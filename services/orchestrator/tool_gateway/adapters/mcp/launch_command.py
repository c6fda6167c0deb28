"""Becomes the command of a source, with limits, in a process that was made for it.

It is run by its path and in isolation, with one argument: a JSON object of the parent's process id, the command, the
names of the variables that it gets, and how many processes it may add to those of its user (0: any number).
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from pathlib import Path

# Of data, not of addresses: some runtimes reserve far more of those than they use.
_MAX_MEMORY_BYTES = 2 * 1024**3
_MAX_OPEN_FILES = 256
_MAX_FILE_BYTES = 256 * 1024 * 1024
_PR_SET_PDEATHSIG = 1


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    ceiling = value if hard == resource.RLIM_INFINITY else min(value, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(kind, (ceiling, ceiling))


def _main(parent: int, command: list[str], variables: list[str], processes: int) -> None:
    _limit(resource.RLIMIT_DATA, _MAX_MEMORY_BYTES)
    _limit(resource.RLIMIT_NOFILE, _MAX_OPEN_FILES)
    _limit(resource.RLIMIT_FSIZE, _MAX_FILE_BYTES)
    _limit(resource.RLIMIT_CORE, 0)
    if processes:
        with contextlib.suppress(OSError, ValueError):
            limit_processes(processes)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit(1)  # the gateway died before
    # What the program starts has no more rights than the gateway, whatever its file's mode.
    contain(Profile(()), {Measure.NO_NEW_PRIVILEGES})
    # The interpreter may have added variables of its own.
    environment = {name: os.environ[name] for name in variables if name in os.environ}
    os.execvpe(command[0], command, environment)  # noqa: S606 - the operator's command, without a shell


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[5]))
    from services.common.containment.contain import Measure, Profile, contain
    from services.common.process_count import limit_processes

    request = json.loads(sys.argv[1])
    try:
        _main(request["parent"], request["command"], request["variables"], request["processes"])
    except OSError:
        sys.exit(127)
