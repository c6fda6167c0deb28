"""What a start of the command line costs: CPU of help, completion and a call, beside that of an empty Python."""

import os
import resource
import subprocess
import sys

from tests.integration.client.installation import Installation

_RUNS = 7
_PROGRAM = ("-m", "coxswain.client")
_STARTS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "python -c pass": (("-c", "pass"), {}),
    "coxswain --help": ((*_PROGRAM, "--help"), {}),
    "coxswain crews --help": ((*_PROGRAM, "crews", "--help"), {}),
    "Tab": (_PROGRAM, {"_COXSWAIN_COMPLETE": "complete_bash", "COMP_WORDS": "coxswain c", "COMP_CWORD": "1"}),
    "coxswain whoami": ((*_PROGRAM, "whoami"), {}),
}


def main() -> None:
    """Print the smallest CPU of several runs of each, in milliseconds and as a multiple of the empty one's."""
    server = Installation().serve()  # type: ignore[abstract]
    try:
        empty = 0.0
        for name, (arguments, environment) in _STARTS.items():
            spent = min(
                _cpu_seconds(arguments, {"COXSWAIN_ADDRESS": server.address, **environment}) for _ in range(_RUNS)
            )
            empty = empty or spent
            print(f"{name:24} {spent * 1000:6.0f} ms  {spent / empty:5.1f} times", flush=True)
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
