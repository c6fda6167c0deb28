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
LANGUAGES = {"Python": "python", "TypeScript": "js", "grpcurl": "sh", "Go": "go", "Java": "java", "C# (.NET)": "csharp"}

# Where grpcurl is not installed, buf sends the same data to the same method.
GRPCURL = """#!/bin/sh
[ "$1 $2 $4" = "-plaintext -H -d" ] || exit 2
exec buf curl --http2-prior-knowledge --protocol grpc -H "$3" -d "$5" "http://$6/$7"
"""


def run(suite: SuiteProcess, *command: str, text: str, cwd: Path, **environment: str) -> str:
    """Run a program that is given as text, as it is printed but for the suite's address.

    That is one suite for all recipes, as a reader has one server: none may need what another one has used up.
    """
    suite.restore_workers()
    own = text.replace("127.0.0.1:50051", suite.address("orchestrator"))
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
    printed = run(suite, sys.executable, "-", text=recipe(PAGE, "Python", "python"), cwd=tmp_path).splitlines()
    events = [line.split() for line in printed if re.fullmatch(r"\d+ \w+", line)]
    assert [int(number) for number, _ in events] == list(range(1, len(events) + 1)), "each event once, over the cut"
    kinds = [kind for _, kind in events]
    assert kinds.index("question_raised") < kinds.index("question_answered") < kinds.index("execution_succeeded")
    _text, cancelled, invalid, missing, generated = printed[len(events) :]
    assert cancelled == "execution_cancelled"
    assert invalid.startswith("INVALID_FIELD [('inputs.text'")
    assert missing.startswith("NOT_FOUND {")
    assert generated.startswith("StatusCode.NOT_FOUND NOT_FOUND {")


def test_typescript(suite: SuiteProcess, typescript_client: Path) -> None:
    program = recipe(PAGE, "TypeScript", "js")
    node = ("node", "--input-type=module", "-")
    printed = run(suite, *node, text=program, cwd=typescript_client).splitlines()
    sequences = [int(line.split()[0]) for line in printed if re.fullmatch(r"\d+ \w+", line)]
    assert sequences == list(range(1, len(sequences) + 1)), "each event once, over the cut"
    watched = printed.index("events undefined")
    assert printed[watched - 3 : watched - 1] == ["executionCancelled", "INVALID_FIELD inputs.text"]
    assert printed[watched - 1].startswith("NOT_FOUND")
    assert printed[watched + 1] == "letter executionQueued"
    assert printed[-3] == "letter questionRaised"
    assert printed[-2].startswith("asked ")
    assert printed[-1] == "alert undefined"


def test_grpcurl(suite: SuiteProcess, tmp_path: Path) -> None:
    programs = [str(Path(sys.executable).parent), os.environ["PATH"]]
    if shutil.which("grpcurl") is None:
        (tmp_path / "grpcurl").write_text(GRPCURL)
        (tmp_path / "grpcurl").chmod(0o755)
        programs.insert(0, str(tmp_path))
    path = os.pathsep.join(programs)
    printed = run(suite, "sh", "-s", text=recipe(PAGE, "grpcurl", "sh"), cwd=tmp_path, PATH=path)
    for found in ('"executionSucceeded"', '"executionCancelled"', "failed with exit code"):
        assert found in printed
    assert re.findall(r'"sequence": "(\d+)"', printed)[0] == "4", "the watch goes on behind the event it names"


def test_recipes_start_executions_of_their_own() -> None:
    texts = [recipe(PAGE, heading, language) for heading, language in LANGUAGES.items()]
    starts = [
        (group, request_id)
        for text in texts
        for group in set(re.findall(r"dev:alice:(\w+)=", text))
        for request_id in set(re.findall(r"\border-\w+", text))
    ]
    assert len(starts) >= len(texts)
    assert len(set(starts)) == len(starts)


@pytest.mark.parametrize("language", ["go", "java", "csharp"])
def test_recipes_that_are_not_run_name_what_there_is(language: str) -> None:
    (heading,) = (heading for heading, name in LANGUAGES.items() if name == language)
    text = recipe(PAGE, heading, language)
    messages = {name for file in product_files() for name in file.message_types_by_name}
    methods = {method.name for service in product_services() for method in service.methods}
    assert set(re.findall(r"\b[A-Z]\w+(?:Request|Question)\b", text)) <= messages | methods
    for method in ("StartExecution", "WatchExecution", "AnswerQuestion", "CancelExecution"):
        assert method in methods
        assert re.search(rf"\.{method}(Async)?\(", text, re.IGNORECASE)
