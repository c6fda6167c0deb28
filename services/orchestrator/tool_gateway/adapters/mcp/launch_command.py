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

_LIMITS = {
    # Not of addresses: some runtimes reserve far more of those than they use.
    resource.RLIMIT_DATA: 2 * 1024**3,
    resource.RLIMIT_NOFILE: 256,
    resource.RLIMIT_FSIZE: 256 * 1024 * 1024,
    resource.RLIMIT_CORE: 0,
}
_PR_SET_PDEATHSIG = 1


def _main(parent: int, command: list[str], variables: list[str], processes: int) -> None:
    for kind, most in _LIMITS.items():
        with contextlib.suppress(OSError, ValueError):
            limit_resource(kind, most)
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
    from services.common.resource_limits import limit_processes, limit_resource

    request = json.loads(sys.argv[1])
    try:
        _main(request["parent"], request["command"], request["variables"], request["processes"])
    except OSError:
        sys.exit(127)
