"""Environments of their own, for programs of the tests that need other versions of packages than the product."""

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python_of(name: str, lock: Path) -> Path:
    """Return the interpreter of an environment with the packages of a lock; it is made when its lock is new."""
    environment = ROOT / ".venv" / name
    wanted = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    python, stamp = environment / "bin" / "python", environment / ".stamp"
    with environment.with_suffix(".lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not stamp.is_file() or stamp.read_text() != wanted:
            subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", environment], check=True)
            subprocess.run(
                [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--require-hashes", "-r", lock],
                check=True,
            )
            stamp.write_text(wanted)
    return python
