"""The TypeScript client is built, linted, and makes the whole round against a running suite."""

import os
import re
import subprocess
from pathlib import Path

from tests.support.suite_process import SuiteProcess

ROOT = Path(__file__).parents[2]


def node(client: Path, suite: SuiteProcess, *arguments: str) -> str:
    suite.restore_workers()
    environment = os.environ | {"COXSWAIN_ADDRESS": suite.address("orchestrator")}
    ran = subprocess.run(
        ["node", *arguments], cwd=client, env=environment, capture_output=True, text=True, check=False, timeout=180
    )
    assert ran.returncode == 0, f"{ran.stdout}{ran.stderr}"
    return ran.stdout


def test_its_own_tests_pass_over_both_transports(typescript_client: Path, suite: SuiteProcess) -> None:
    printed = node(typescript_client, suite, "--test", "--test-reporter=tap", "dist/test/")
    figures = dict(re.findall(r"^# (pass|fail|skipped|cancelled) (\d+)$", printed, re.MULTILINE))
    assert int(figures.pop("pass")) > 10
    assert set(figures.values()) == {"0"}


def test_the_lock_names_no_registry() -> None:
    assert '"resolved"' not in (ROOT / "clients/typescript/package-lock.json").read_text(encoding="utf-8")
