"""The examples of docs/models.md work, one after the other."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coxswain.client.cli.app import app
from tests.support.llm_emulator import LlmEmulator
from tests.support.media_samples import PDF, PNG
from tests.support.suite_process import SuiteProcess

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_every_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llm: LlmEmulator, model_environment: dict[str, str]
) -> None:
    (tmp_path / "plan.png").write_bytes(PNG)
    (tmp_path / "contract.pdf").write_bytes(PDF)
    monkeypatch.chdir(tmp_path)
    environment = model_environment | {"OLLAMA_BASE_URL": f"{llm.url_of('ollama_openai')}/v1"}
    suite = SuiteProcess(tmp_path / "data", workers=0, environment=environment)
    names: dict[str, Any] = {}
    ran = {"python": 0, "sh": 0}
    with suite.running():
        address = suite.address("models")
        for language, block in _BLOCK.findall(PAGE):
            if language == "python":
                exec(block.replace("127.0.0.1:50051", address), names)
                ran["python"] += 1
                continue
            for line in block.splitlines():
                program, *arguments = shlex.split(line, comments=True)
                assert program == "coxswain"
                result = CliRunner().invoke(app, ["--address", address, *arguments])
                assert result.exit_code == 0, f"{line}: {result.output}"
                ran["sh"] += 1
        names["client"].close()
    assert min(ran.values()) > 5
