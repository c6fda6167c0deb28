"""What is made of locks for SBOMs, and of reports about advisories."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).parents[2] / "tools" / "supply_chain"


def tool(name: str) -> Any:
    specification = importlib.util.spec_from_file_location(f"supply_chain_{name}", TOOLS / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def test_an_sbom_has_what_an_image_installs_and_nothing_of_other_systems() -> None:
    lock = (
        "# made\n"
        "aiohttp==3.14.5 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "colorama==0.4.6 ; sys_platform == 'win32' \\\n    --hash=sha256:cc\n"
        "uvloop==0.23.0 ; sys_platform != 'win32' \\\n    --hash=sha256:dd\n"
    )
    assert tool("sbom").installed_on_linux(lock) == (
        "# made\n"
        "aiohttp==3.14.5 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "uvloop==0.23.0 \\\n    --hash=sha256:dd\n"
    )


SAFE = {"name": "a", "version": "1", "vulns": []}
WEAK = {"name": "b", "version": "2", "vulns": [{"id": "X-1", "fix_versions": ["3"]}]}
SKIPPED = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "code", "line"),
    [
        ([SAFE], 0, "no known weakness in 1 packages"),
        ([SAFE, WEAK], 1, "b 2: X-1, mended in 3"),
        # pip-audit ends with 0 and "No known vulnerabilities found" here.
        ([SAFE, SKIPPED], 3, "1 of 2 packages could not be looked up: c"),
        ([WEAK, SKIPPED], 1, "1 of 2 packages could not be looked up: c"),
        (
            [SKIPPED],
            3,
            "nothing is known: no advisory database could be reached, or it knows none of these packages",
        ),
        ([], 3, ""),
    ],
)
def test_what_was_not_looked_up_never_counts_as_safe(packages: list[dict[str, Any]], code: int, line: str) -> None:
    found, lines = tool("advisories").judge({"dependencies": packages})
    assert found == code
    assert line in [*lines, ""]
