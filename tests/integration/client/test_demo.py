"""The demo says what is wrong before it starts anything, and why a suite did not start."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.client.installation import Server
from tests.support.child_process import ROOT, free_port, scrubbed_environment


def demo(tmp_path: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    result = subprocess.run(
        [sys.executable, "examples/brief/demo.py", *arguments],
        cwd=ROOT,
        env=scrubbed_environment(tmp_path, COXSWAIN_DATA_DIR=str(tmp_path / "data"), **environment),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "Traceback" not in result.stdout + result.stderr
    return result.returncode, result.stdout


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"\x7fELF\x02\x01\x01\0\0\0\0\0", "binary", id="binary"),
        pytest.param(b"a" * (1024 * 1024 + 1), "larger than 1,048,576 bytes", id="too big"),
    ],
)
def test_a_text_that_is_none_is_refused_before_anything_starts(tmp_path: Path, data: bytes, says: str) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(data)
    code, output = demo(tmp_path, str(text))
    assert code == 1
    assert says in output
    assert not (tmp_path / "data").exists()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    code, output = demo(tmp_path, str(tmp_path / "nothing.txt"))
    assert code == 2
    assert "nothing.txt: No such file" in output


def test_a_suite_that_does_not_start_gives_its_reason(tmp_path: Path) -> None:
    code, output = demo(tmp_path, COXSWAIN_PORT="port")
    assert code == 1
    assert "COXSWAIN_PORT" in output


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    code, output = demo(tmp_path, COXSWAIN_ADDRESS=address)
    assert code == 1
    assert f"error: {address} cannot be reached" in output


@pytest.mark.parametrize(
    ("environment", "model"),
    [
        ({}, "offline/extract"),
        ({"OPENAI_API_KEY": "k"}, "openai/gpt-4o-mini"),
        ({"DATABRICKS_HOST": "https://example.com", "DATABRICKS_TOKEN": "t"}, "databricks/databricks-gpt-oss-120b"),
        ({"DATABRICKS_HOST": "https://example.com"}, "offline/extract"),
        ({"OPENAI_API_KEY": "k", "COXSWAIN_DEMO_MODEL": "openai/other"}, "openai/other"),
    ],
)
def test_the_environment_chooses_the_model(
    tmp_path: Path, server: Server, environment: dict[str, str], model: str
) -> None:
    code, output = demo(tmp_path, COXSWAIN_ADDRESS=server.address, **environment)
    assert f"model: {model} " in output
    # This server knows no models.
    assert (code, "UNIMPLEMENTED" in output) == (1, True)
