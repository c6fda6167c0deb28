"""Files of executions on the command line and in the client: whole or not at all, and never over another file."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from coxswain.client import AsyncClient, Client
from coxswain.client.cli.artifacts import local_name
from coxswain.orchestrator.v1 import artifact_pb2 as pb
from tests.integration.client.command_line import invoke, rows
from tests.integration.client.installation import Installation, Server, refuse
from tests.support.harness import ALICE

CONTENT = bytes(range(256))


def away(context: Any) -> None:
    refuse(context, grpc.StatusCode.UNAVAILABLE, "away")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def test_files_are_listed(server: Server, installation: Installation) -> None:
    installation.files = {"notes/a.md": b"12345", "b": b""}
    result = invoke(server.address, "artifact", "list", "e", "--task", "edit", "--prefix", "n")
    assert result.exit_code == 0, result.stderr
    assert [line.split()[:3] for line in result.stdout.splitlines()[1:]] == [
        ["b", "0", "edit"],
        ["notes/a.md", "5", "edit"],
    ]
    sent = installation.requests[-1]
    assert (sent.execution_id, sent.task_name, sent.name_prefix) == ("e", "edit", "n")
    (listed,) = rows(invoke(server.address, "artifact", "list", "e", "--json"))
    assert [one["name"] for one in listed] == ["b", "notes/a.md"]
    installation.files = {}
    assert "no files" in invoke(server.address, "artifact", "list", "e").stderr


def test_a_file_is_stored_here_under_the_last_part_of_its_name(
    server: Server, installation: Installation, here: Path
) -> None:
    installation.files = {"notes/a.md": CONTENT, "empty": b""}
    result = invoke(server.address, "artifact", "get", "e", "notes/a.md")
    assert (result.exit_code, result.stdout) == (0, "a.md: 256 bytes\n"), result.stderr
    assert (here / "a.md").read_bytes() == CONTENT
    assert invoke(server.address, "artifact", "get", "e", "empty", "-o", str(here.parent)).exit_code == 0
    assert (here.parent / "empty").read_bytes() == b""
    (told,) = rows(invoke(server.address, "artifact", "get", "e", "notes/a.md", "-o", "b", "--json"))
    assert (told["path"], told["artifact"]["revision"]) == ("b", 3)
    result = invoke(server.address, "artifact", "get", "e", "notes/a.md", "-o", "-")
    assert (result.exit_code, result.stdout_bytes) == (0, CONTENT)


def test_nothing_that_is_there_is_replaced(server: Server, installation: Installation, here: Path) -> None:
    installation.files = {"a.md": CONTENT}
    (here / "a.md").write_text("mine")
    (here / "gone").symlink_to(here.parent / "elsewhere")
    for arguments in ([], ["-o", "gone"], ["-o", "a.md"]):
        result = invoke(server.address, "artifact", "get", "e", "a.md", *arguments)
        assert result.exit_code == 2
        assert "is there already: choose another name with --output" in result.stderr
    assert (here / "a.md").read_text() == "mine"
    assert not (here.parent / "elsewhere").exists()
    assert installation.calls["DownloadArtifact"] == 0
    result = invoke(server.address, "artifact", "get", "e", "none")
    assert result.exit_code == 10 + grpc.StatusCode.NOT_FOUND.value[0]
    assert sorted(path.name for path in here.iterdir()) == ["a.md", "gone"]


@pytest.mark.parametrize("name", ["..", "a/..", "", "a/", "..\\a", "a\x1b[2J", "C:x", "a\nb"])
def test_a_server_cannot_say_where_a_file_lies(name: str) -> None:
    with pytest.raises(ValueError, match="--output"):
        local_name(name)


def test_a_download_goes_on_after_a_lost_connection(server: Server, installation: Installation, here: Path) -> None:
    installation.files = {"a": CONTENT}
    installation.download_breaks_after = [(35, away), (0, away), (100, None)]
    assert invoke(server.address, "artifact", "get", "e", "a").exit_code == 0
    assert (here / "a").read_bytes() == CONTENT
    asked = [request for request in installation.requests if isinstance(request, pb.DownloadArtifactRequest)]
    assert [(request.offset, request.revision) for request in asked] == [(0, 3), (35, 3), (35, 3), (135, 3)]


async def test_both_clients_download(server: Server, installation: Installation) -> None:
    installation.files = {"a": CONTENT}
    installation.download_breaks_after = [(35, away), (256, None), (35, away)]

    def blocking() -> bytes:
        with Client(server.address, token=ALICE) as client:
            return b"".join(client.download_artifact("e", "a"))

    async with AsyncClient(server.address, token=ALICE) as client:
        assert b"".join([piece async for piece in client.download_artifact("e", "a")]) == CONTENT
    assert await asyncio.to_thread(blocking) == CONTENT


def test_what_comes_damaged_or_changes_meanwhile_is_not_kept(
    server: Server, installation: Installation, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.files = {"a": CONTENT}
    right = installation._artifact("a")
    right.sha256 = "0" * 64
    monkeypatch.setattr(installation, "_artifact", lambda _: right)
    result = invoke(server.address, "artifact", "get", "e", "a")
    assert result.exit_code == 2
    assert "are not those that the server has stored" in result.stderr
    installation.download_breaks_after = [
        (35, lambda context: refuse(context, grpc.StatusCode.ABORTED, "another revision"))
    ]
    assert invoke(server.address, "artifact", "get", "e", "a").exit_code == 10 + grpc.StatusCode.ABORTED.value[0]
    assert list(here.iterdir()) == []
