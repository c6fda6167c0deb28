"""README and docs/ lead somewhere, and name calls, commands and targets that exist."""

import re
import shlex
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from typer import BadParameter, Exit
from typer.main import get_command

from coxswain.client.cli.app import app
from coxswain.common.v1.error_reason_pb2 import ErrorReason
from tests.support.descriptors import product_services
from tests.support.links import broken_links

ROOT = Path(__file__).parents[2]
_APART = {".venv", "build", "gen", "node_modules", ".git"}
_COMMAND = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?(coxswain .*)$", re.MULTILINE)


@cache
def pages() -> dict[str, str]:
    """Return the text of every page of the repository by its path from the root."""
    found = (path.relative_to(ROOT) for path in sorted(ROOT.rglob("*.md")))
    return {
        path.as_posix(): (ROOT / path).read_text(encoding="utf-8")
        for path in found
        if not _APART.intersection(path.parts)
    }


def blocks(page: str, languages: str) -> list[str]:
    return re.findall(rf"^ *```(?:{languages})\n(.*?)^ *```", pages()[page], re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Return each command line of the pages once, without what a shell takes away."""
    found = {}
    for page in pages():
        for block in blocks(page, "sh|console"):
            for line in _COMMAND.findall(block.replace("\\\n", " ")):
                found[re.split(r" [<>|&]+ |\s+#", line)[0].strip()] = page
    return sorted(found)


@cache
def command_line() -> Any:
    return get_command(app)


def test_links_lead_to_files_and_headings() -> None:
    assert broken_links(pages(), lambda path: (ROOT / path).exists()) == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    text = "# One\n\n[here](#one) [gone](#two) [file](gone.md) [out](https://example.com)\n\n```\n# Two\n```\n"
    assert broken_links({"docs/page.md": text}, lambda path: False) == [
        "docs/page.md: #two (no such heading)",
        "docs/page.md: gone.md",
    ]


def test_calls_that_pages_name_exist() -> None:
    methods = {service.name: {method.name for method in service.methods} for service in product_services()}
    named = [
        (page, service, method)
        for page, text in pages().items()
        for service, method in re.findall(r"`(\w+Service)[./](\w+)`", text)
        if service in methods
    ]
    assert len(named) > 50
    assert [entry for entry in named if entry[2] not in methods[entry[1]]] == []


def test_targets_that_pages_name_are_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        (page, target)
        for page in pages()
        for block in blocks(page, "sh")
        for target in re.findall(r"^(?:[A-Z_]+=\S+ )*make ([a-z-]+)", block, re.MULTILINE)
    }
    assert {entry for entry in named if entry[1] not in targets} == set()
    assert {("README.md", "demo"), ("README.md", "test")} <= named


@pytest.mark.parametrize("line", commands())
def test_commands_that_pages_show_are_understood(line: str) -> None:
    command = command_line()
    arguments = shlex.split(line)[1:]
    context = command.make_context("coxswain", [], resilient_parsing=True)
    name = "coxswain"
    while arguments and hasattr(command, "resolve_command"):
        name, command, arguments = command.resolve_command(context, arguments)
        if hasattr(command, "resolve_command"):
            context = command.make_context(name, [], parent=context, resilient_parsing=True)
    try:
        # A wrong option or a missing argument is an error here.
        command.make_context(name, arguments, parent=context, resilient_parsing=hasattr(command, "resolve_command"))
    except Exit:
        pass
    except BadParameter as error:
        # The files of the pages are not there.
        if "does not exist" not in str(error):
            raise


def test_the_demo_runs_on_a_model_that_is_named() -> None:
    said = subprocess.run(["make", "-n", "demo", "MODEL=a/b"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(r'^COXSWAIN_DEMO_MODEL="a/b" \S+ examples/brief/demo.py', said.stdout, re.MULTILINE)


def test_backups_are_made_by_the_lines_of_their_page() -> None:
    lines = [line.split(" #")[0] for line in "".join(blocks("docs/backup.md", "sh")).splitlines()]
    run = []
    for line in lines:
        assert re.fullmatch(r"(\w+=\S+ )*make [\w /=.-]+", line.strip()), "nothing else is run here, nor without -n"
        shown = line.replace("make ", "make -n ")
        said = subprocess.run(shown, shell=True, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        run += re.findall(r"-m services\.suite\.backup (\w+ \S+) ", said)
    assert run == ['backup "/backups/2026-11-30"', 'restore "/backups/2026-11-30"']


def test_the_reason_of_an_error_leads_to_the_enum_as_the_page_says() -> None:
    (snippet,) = blocks("docs/api-style.md", "python")
    names = {"ErrorReason": ErrorReason, "info": ErrorInfo(reason="NOT_FOUND")}
    assert eval(snippet.strip(), names) == ErrorReason.ERROR_REASON_NOT_FOUND


def test_readme_begins_with_two_commands_and_fits_on_two_screens() -> None:
    first = blocks("README.md", "sh")[0]
    assert re.findall(r"^make (\w+)", first, re.MULTILINE) == ["demo", "test"]
    assert len(pages()["README.md"].splitlines()) <= 70
