"""What a start of the command line costs: CPU of help, completion and a call, beside that of an empty Python."""

import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

from tests.integration.client.installation import Installation

_RUNS = 7
_PROGRAM = ("-m", "coxswain.client")
_EMPTY = "python -c pass"
_HELP_GOAL, _CALL_GOAL = 16, 40


class _Start(NamedTuple):
    """A start of an interpreter, and how many times the CPU of an empty one it may use."""

    arguments: tuple[str, ...]
    goal: float
    environment: Mapping[str, str] = {}


def _coxswain(goal: float, *arguments: str) -> _Start:
    return _Start((*_PROGRAM, *arguments), goal)


def _tab(line: str) -> _Start:
    environment = {"_COXSWAIN_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    return _Start(_PROGRAM, _HELP_GOAL, environment)


_STARTS = {
    _EMPTY: _Start(("-c", "pass"), 1),
    "coxswain --version": _coxswain(_HELP_GOAL, "--version"),
    "coxswain --help": _coxswain(_HELP_GOAL, "--help"),
    "coxswain crews --help": _coxswain(_HELP_GOAL, "crews", "--help"),
    "coxswain secret put --help": _coxswain(_HELP_GOAL, "secret", "put", "--help"),
    "Tab at a command": _tab("coxswain c"),
    "Tab at a name": _tab("coxswain crews get "),
    "coxswain version": _coxswain(_CALL_GOAL, "version"),
    "coxswain whoami": _coxswain(_CALL_GOAL, "whoami"),
}


def main() -> None:
    """Print the smallest CPU of several runs of each, as a multiple of the empty one's, and the goal."""
    server = Installation().serve()  # type: ignore[abstract]
    try:
        empty = 0.0
        for name, start in _STARTS.items():
            environment = {"COXSWAIN_ADDRESS": server.address, **start.environment}
            spent = min(_cpu_seconds(start.arguments, environment) for _ in range(_RUNS))
            empty = empty or spent
            verdict = "" if spent <= start.goal * empty else "  <- over the goal"
            times = f"{spent / empty:5.1f} times (goal <= {start.goal}){verdict}"
            print(f"{name:28} {spent * 1000:6.0f} ms  {times}", flush=True)
    finally:
        server.stop()


def _cpu_seconds(arguments: tuple[str, ...], environment: dict[str, str]) -> float:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments],
        env={**inherited, "PYTHONPATH": "gen:clients/python", **environment},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
