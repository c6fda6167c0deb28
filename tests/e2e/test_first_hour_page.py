"""docs/first-hour.md can be followed: its crew, its commands and its program work, one after the other."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coxswain.client.cli.app import app
from tests.e2e.conftest import API_KEY
from tests.e2e.support import MODEL
from tests.support.llm_emulator import LlmEmulator
from tests.support.suite_process import SuiteProcess

PAGE = (Path(__file__).parents[2] / "docs" / "first-hour.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"^```(python|sh|yaml)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_every_step_works(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    suite: SuiteProcess,
    llm: LlmEmulator,
) -> None:
    suite.restore_workers()
    monkeypatch.chdir(tmp_path)
    address = suite.address("orchestrator")
    # The suite has a model and a provider's address of its own.
    page = PAGE.replace("ollama/llama3.2", MODEL).replace("https://api.openai.com", llm.url)

    def coxswain(*arguments: str, value: str | None = None) -> str:
        result = CliRunner().invoke(app, ["--address", address, *arguments], input=value)
        assert result.exit_code == 0, f"{arguments}: {result.output}"
        return result.output

    try:
        for language, block in _BLOCK.findall(page):
            if language == "yaml":
                (tmp_path / "letter.yaml").write_text(block, encoding="utf-8")
            elif language == "python":
                exec(block.replace("127.0.0.1:50051", address), {})
            else:
                for line in block.splitlines():
                    command, _, file = line.partition(" < ")
                    if command.startswith("coxswain "):
                        coxswain(*shlex.split(command)[1:], value=API_KEY if file else None)
        assert "execution_succeeded" in capsys.readouterr().out
        assert "model: offline/extract" in (tmp_path / "letter.yaml").read_text(encoding="utf-8"), "it needs no model"
        assert "stored_secret: used" in coxswain("secret", "explain", "llm/openai")
    finally:
        coxswain("schedule", "delete", "weekly-letter", "--yes")
        coxswain("secret", "delete", "llm/openai", "--yes")
        coxswain("memory", "clear", "--crew", "letter", "--yes")
        coxswain("crews", "delete", "letter", "--yes")
