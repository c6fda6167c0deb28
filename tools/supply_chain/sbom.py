"""Writes an SBOM (CycloneDX, JSON) of each image: `python tools/supply_chain/sbom.py build/sbom auth models ...`.

It has the Python packages that the image installs on Linux, with their hashes; what the base image brings is not in it.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from packaging.markers import Marker

IMAGE = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
_REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9][^\s;]*)\s*(?:;\s*(?P<marker>.*?))?\s*\\?$")


def installed_on_linux(lock: str) -> str:
    """Return a lock without the requirements whose markers rule Linux out, and without markers."""
    kept: list[str] = []
    keeping = True
    for line in lock.splitlines():
        found = _REQUIREMENT.match(line)
        if found:
            marker = found["marker"]
            keeping = not marker or Marker(marker).evaluate(IMAGE)
            line = f"{found['name']} \\" if line.endswith("\\") else found["name"]
        if keeping:
            kept.append(line)
    return "\n".join(kept) + "\n"


def main(directory: Path, images: list[str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for image in images:
        target = directory / f"{image}.cdx.json"
        subprocess.run(
            [
                *(str(Path(sys.executable).with_name("cyclonedx-py")), "requirements", "-"),
                *("--pyproject", "pyproject.toml", "--mc-type", "application"),
                *("--output-reproducible", "--of", "JSON", "-o", str(target)),
            ],
            input=installed_on_linux(Path(f"requirements/{image}.txt").read_text(encoding="utf-8")),
            text=True,
            check=True,
            # It misses a graph of dependencies, which a lock does not have.
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )
        print(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
