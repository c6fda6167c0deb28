"""Looks the locked packages up in an advisory database: `python tools/supply_chain/advisories.py auth models ...`.

Exit code 0: all were looked up and none has a known weakness; 1: some have; 3: the database could not be asked, or
does not know some of them, so that nothing is known of these. `ADVISORY_SERVICE=osv` asks another one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

CLEAN, FOUND, UNKNOWN = 0, 1, 3
_MOST_NAMES = 5


def judge(report: dict[str, Any]) -> tuple[int, list[str]]:
    """Return the exit code and the lines for a report of pip-audit."""
    packages = report["dependencies"]
    lines = [
        f"{package['name']} {package['version']}: {weakness['id']}, "
        f"mended in {', '.join(weakness['fix_versions']) or 'no release yet'}"
        for package in packages
        for weakness in package.get("vulns", ())
    ]
    # pip-audit itself calls it a success when not a single package could be looked up.
    unknown = sorted(package["name"] for package in packages if "skip_reason" in package)
    if unknown:
        names = ", ".join(unknown[:_MOST_NAMES]) + (", ..." if len(unknown) > _MOST_NAMES else "")
        lines.append(f"{len(unknown)} of {len(packages)} packages could not be looked up: {names}")
    if len(unknown) == len(packages):
        lines.append("nothing is known: no advisory database could be reached, or it knows none of these packages")
    if any(package.get("vulns") for package in packages):
        return FOUND, lines
    if unknown or not packages:
        return UNKNOWN, lines
    return CLEAN, [f"no known weakness in {len(packages)} packages"]


def main(locks: list[str]) -> int:
    service = os.environ.get("ADVISORY_SERVICE", "pypi")
    outcome = subprocess.run(
        [
            str(Path(sys.executable).with_name("pip-audit")),
            *("--vulnerability-service", service, "--format", "json", "--progress-spinner", "off"),
            *("--disable-pip", "--require-hashes", "--timeout", "15"),
            *(part for lock in locks for part in ("--requirement", f"requirements/{lock}.txt")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        code, lines = judge(json.loads(outcome.stdout))
    except (ValueError, KeyError):
        last = next(reversed(outcome.stderr.strip().splitlines()), "")
        code, lines = UNKNOWN, [f'the advisory database "{service}" could not be asked: {last[:200]}']
    print("\n".join(lines), file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
