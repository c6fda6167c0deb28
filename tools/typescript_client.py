"""Builds the TypeScript client outside of its sources: modules, generated code, compiler, linter and package.

What has not changed since the last time is not done again. It needs node and npm, and the packages of
requirements/codegen.txt.

Usage: python -m tools.typescript_client [--modules-only] [--if-installed] OUTPUT_DIR
"""

import argparse
import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tools.generate_protos import run_protoc
from tools.sdk.__main__ import IMAGE, ROOT, sdk_files

SOURCES = ROOT / "clients" / "typescript"
PROGRAMS = ("node", "npm")
_MODULES = ".modules"
_MADE_HERE = shutil.ignore_patterns("node_modules", "dist", "gen")


def missing_programs() -> list[str]:
    """Return what has to be installed before the client can be built."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def has_modules(output: Path) -> bool:
    """Return whether what the client depends on has been installed."""
    return (output / _MODULES).is_file()


def build(output: Path, *, modules_only: bool = False) -> None:
    """Build the client in a directory; return when it is up to date.

    Raises subprocess.CalledProcessError, with the output on standard output, for what npm, the compiler or the linter
    refuse.
    """
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        lock = [SOURCES / name for name in ("package.json", "package-lock.json", ".npmrc")]
        _when_changed(output / _MODULES, _digest(lock), lambda: _install(output))
        if not modules_only:
            files = sdk_files()
            sources = [path for path in SOURCES.rglob("*") if path.is_file() and not _is_made(path)]
            digest = hashlib.sha256(files[IMAGE] + _digest(sources)).digest()
            _when_changed(output / ".built", digest, lambda: _compile(output, files))


def _is_made(path: Path) -> bool:
    return bool({"node_modules", "dist", "gen"}.intersection(path.relative_to(SOURCES).parts))


def _digest(paths: list[Path]) -> bytes:
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in sorted(paths))).digest()


def _when_changed(stamp: Path, digest: bytes, make: Callable[[], None]) -> None:
    if stamp.is_file() and stamp.read_bytes() == digest:
        return
    stamp.unlink(missing_ok=True)
    make()
    stamp.write_bytes(digest)


def _install(output: Path) -> None:
    shutil.copytree(SOURCES, output, dirs_exist_ok=True, ignore=_MADE_HERE)
    _npm(output, "ci", "--prefer-offline", "--no-audit", "--no-fund", "--silent")


def _compile(output: Path, files: dict[str, bytes]) -> None:
    for made in ("src", "test", "dist"):
        shutil.rmtree(output / made, ignore_errors=True)
    shutil.copytree(SOURCES, output, dirs_exist_ok=True, ignore=_MADE_HERE)
    generated = output / "src" / "gen"
    generated.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / IMAGE
        image.write_bytes(files[IMAGE])
        run_protoc(
            [
                f"--descriptor_set_in={image}",
                f"--plugin=protoc-gen-es={output.resolve() / 'node_modules' / '.bin' / 'protoc-gen-es'}",
                f"--es_out={generated}",
                "--es_opt=target=ts,import_extension=js",
                *(name.removeprefix("protos/") for name in sorted(files) if name.endswith(".proto")),
            ]
        )
    for script in ("build", "lint"):
        _npm(output, "run", "--silent", script)


def _npm(output: Path, *arguments: str) -> None:
    subprocess.run(["npm", *arguments], cwd=output, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules-only", action="store_true", help="only install what the client depends on")
    parser.add_argument(
        "--if-installed", action="store_true", help="say so and succeed where node, npm or a registry is missing"
    )
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    if missing := missing_programs():
        message = (
            f"the TypeScript client is not built: it needs Node.js 20 or later with npm; missing: {', '.join(missing)}"
        )
        if not options.if_installed:
            raise SystemExit(f"error: {message}")
        print(message)
        return
    try:
        build(options.output, modules_only=options.modules_only)
    except subprocess.CalledProcessError as error:
        if not options.if_installed:
            raise
        print(f"the TypeScript client is not built: {' '.join(error.cmd)} ended with {error.returncode}")
        return
    if not options.modules_only:
        _npm(options.output, "pack", "--silent", "--pack-destination", str(options.output.resolve().parent))


if __name__ == "__main__":
    main()
