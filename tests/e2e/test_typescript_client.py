"""The TypeScript client is built, linted, and makes the whole round against a running suite."""

import os
import re
import subprocess
from pathlib import Path

from tests.support.pages import recipe
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


def test_the_recipe_of_the_page(typescript_client: Path, suite: SuiteProcess) -> None:
    program = recipe("clients.md", "TypeScript", "js").replace("alice:sales", "alice:of-typescript")
    (typescript_client / "recipe.mjs").write_text(program.replace("127.0.0.1:50051", suite.address("orchestrator")))
    printed = node(typescript_client, suite, "recipe.mjs").splitlines()
    sequences = [int(line.split()[0]) for line in printed if re.fullmatch(r"\d+ \w+", line)]
    assert sequences == list(range(1, len(sequences) + 1)), "each event once, over the cut"
    watched = printed.index("events undefined")
    assert printed[watched - 3 : watched - 1] == ["executionCancelled", "INVALID_FIELD inputs.text"]
    assert printed[watched - 1].startswith("NOT_FOUND")
    assert printed[watched + 1] == "letter executionQueued"
    assert printed[-3] == "letter questionRaised"
    assert printed[-2].startswith("asked ")
    assert printed[-1] == "alert undefined"


def test_the_lock_names_no_registry() -> None:
    assert '"resolved"' not in (ROOT / "clients/typescript/package-lock.json").read_text(encoding="utf-8")
