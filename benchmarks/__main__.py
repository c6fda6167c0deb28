"""Lists and runs the benchmarks: `python -m benchmarks [--list] [NAME ...]`; without names all of them, one by one."""

import argparse
import ast
import pkgutil
import signal
import subprocess
import sys
from pathlib import Path

_HERE = Path(__file__).parent


def benchmarks() -> dict[str, str]:
    """Return the first line of each benchmark's docstring by its name: every module here with a `main`."""
    found = {}
    for module in pkgutil.iter_modules([str(_HERE)]):
        tree = ast.parse((_HERE / f"{module.name}.py").read_text()) if not module.ispkg else ast.parse("")
        if module.name != "__main__" and any(isinstance(n, ast.FunctionDef) and n.name == "main" for n in tree.body):
            found[module.name] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def main() -> int:
    """Run what the command line names; return 1 when one of them failed."""
    known = benchmarks()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures the product.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which (default: all of {', '.join(known)})")
    parser.add_argument("--list", action="store_true", help="say what there is")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(known)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there is {', '.join(known)}")
    if arguments.list:
        for name, summary in known.items():
            print(f"{name:24} {summary}")
        return 0
    failed = []
    for name in arguments.names or known:
        print(f"== {name}: {known[name]}", flush=True)
        # Each in a process of its own: what one imports must not weigh on the next.
        if _run(name):
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str) -> int:
    """Run a benchmark; one that is ended by SIGTERM together with this process ends what it has started."""
    with subprocess.Popen([sys.executable, "-m", f"benchmarks.{name}"], cwd=_HERE.parent) as process:
        previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            return process.wait()
        finally:
            signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    sys.exit(main())
