"""Commands of pages that need a server and nothing else work in their order, as they are printed."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coxswain.auth.v1.group_pb2 import CreateGroupRequest
from coxswain.client import Client
from coxswain.client.cli.app import app
from tests.support.suite_process import SuiteProcess

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("page", "beginning", "count"),
    [
        ("README.md", "grpcurl ", 2),
        ("docs/limits.md", "coxswain limits ", 8),
        ("docs/tools.md", "coxswain tool usage ", 3),
    ],
)
def test_commands_of_a_page(
    page: str, beginning: str, count: int, suite: SuiteProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.restore_workers()
    # Files are named from the root of the checkout.
    monkeypatch.chdir(ROOT)
    blocks = _BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    (block,) = (block for block in blocks if block.startswith(beginning))
    commands = [shlex.split(line, comments=True) for line in block.splitlines() if "coxswain " in line.split("#")[0]]
    assert len(commands) == count
    address, group = suite.address("orchestrator"), ""
    if any("GROUP" in words for words in commands):
        with Client(address) as client:
            request = CreateGroupRequest(display_name="Limits", admin_subject="dev|ops")
            group = client.groups.CreateGroup(request).group.id
    for _program, *arguments in commands:
        result = CliRunner().invoke(
            app, ["--address", address, *(group if word == "GROUP" else word for word in arguments)]
        )
        assert result.exit_code == 0, f"{arguments}: {result.output}"
