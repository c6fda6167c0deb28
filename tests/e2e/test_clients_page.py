"""The recipes of docs/clients.md make the whole round against a running suite."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.descriptors import product_files, product_services
from tests.support.pages import recipe
from tests.support.suite_process import SuiteProcess

PAGE = "clients.md"

# Where grpcurl is not installed, buf sends the same data to the same method.
GRPCURL = """#!/bin/sh
[ "$1 $2 $4" = "-plaintext -H -d" ] || exit 2
exec buf curl --http2-prior-knowledge --protocol grpc -H "$3" -d "$5" "http://$6/$7"
"""


def run(suite: SuiteProcess, group: str, *command: str, text: str, cwd: Path, **environment: str) -> str:
    """Run a program that is given as text, with the suite's address and a group of its own."""
    own = text.replace("127.0.0.1:50051", suite.address("orchestrator")).replace("alice:sales", f"alice:{group}")
    ran = subprocess.run(
        command,
        input=own,
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, f"{ran.stdout}{ran.stderr}"
    return ran.stdout


def test_python(suite: SuiteProcess, tmp_path: Path) -> None:
    suite.restore_workers()
    printed = run(
        suite, "of-python", sys.executable, "-", text=recipe(PAGE, "Python", "python"), cwd=tmp_path
    ).splitlines()
    events = [line.split() for line in printed if re.fullmatch(r"\d+ \w+", line)]
    assert [int(number) for number, _ in events] == list(range(1, len(events) + 1)), "each event once, over the cut"
    kinds = [kind for _, kind in events]
    assert kinds.index("question_raised") < kinds.index("question_answered") < kinds.index("execution_succeeded")
    _text, cancelled, invalid, missing, generated = printed[len(events) :]
    assert cancelled == "execution_cancelled"
    assert invalid.startswith("INVALID_FIELD [('inputs.text'")
    assert missing.startswith("NOT_FOUND {")
    assert generated.startswith("StatusCode.NOT_FOUND NOT_FOUND {")


def test_grpcurl(suite: SuiteProcess, tmp_path: Path) -> None:
    suite.restore_workers()
    programs = [str(Path(sys.executable).parent), os.environ["PATH"]]
    if shutil.which("grpcurl") is None:
        (tmp_path / "grpcurl").write_text(GRPCURL)
        (tmp_path / "grpcurl").chmod(0o755)
        programs.insert(0, str(tmp_path))
    path = os.pathsep.join(programs)
    printed = run(suite, "of-grpcurl", "sh", "-s", text=recipe(PAGE, "grpcurl", "sh"), cwd=tmp_path, PATH=path)
    for found in ('"executionSucceeded"', '"executionCancelled"', "failed with exit code"):
        assert found in printed
    assert re.findall(r'"sequence": "(\d+)"', printed)[0] == "4", "the watch goes on behind the event it names"


@pytest.mark.parametrize("language", ["go", "java", "csharp"])
def test_recipes_that_are_not_run_name_what_there_is(language: str) -> None:
    headings = {"go": "Go", "java": "Java", "csharp": "C# (.NET)"}
    text = recipe(PAGE, headings[language], language)
    messages = {name for file in product_files() for name in file.message_types_by_name}
    methods = {method.name for service in product_services() for method in service.methods}
    assert set(re.findall(r"\b[A-Z]\w+(?:Request|Question)\b", text)) <= messages | methods
    for method in ("StartExecution", "WatchExecution", "AnswerQuestion", "CancelExecution"):
        assert method in methods
        assert re.search(rf"\.{method}(Async)?\(", text, re.IGNORECASE)
