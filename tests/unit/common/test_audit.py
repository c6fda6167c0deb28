"""The audit log: where it goes, who may read it, and what it never holds."""

import json
import logging
import os
import queue
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from coxswain.auth.v1 import group_pb2, secret_pb2
from coxswain.common.v1 import access_pb2
from coxswain.memory.v1 import memory_pb2
from coxswain.models.v1 import model_pb2
from services.common import audit, audit_strangers
from services.common.audit_strangers import StrangerLines
from services.common.grpc.call_audit import resource_of
from services.common.startup import StartError


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    yield
    audit.stop_audit()


def lines(file: Path) -> list[dict[str, Any]]:
    audit.stop_audit()
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_default_is_a_file_in_the_data_directory_that_only_its_owner_reads(tmp_path: Path) -> None:
    reset = os.umask(0)
    try:
        audit.configure_audit("", tmp_path, service="auth")
        audit.record("changed", method="/m", reason="")
    finally:
        os.umask(reset)
    file = tmp_path / "audit.log"
    [line] = lines(file)
    assert {name: line[name] for name in ("log", "service", "event", "method")} == {
        "log": "audit",
        "service": "auth",
        "event": "changed",
        "method": "/m",
    }
    assert "reason" not in line
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "a.log"
    audit.configure_audit(str(file), tmp_path, service="auth")
    audit.record("changed", method="/first")
    written = threading.Event()
    while not file.read_text():
        written.wait(0.01)
    file.rename(tmp_path / "a.log.1")
    audit.record("changed", method="/second")
    assert [line["method"] for line in lines(file)] == ["/second"]
    assert "/first" in (tmp_path / "a.log.1").read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_standard_error_takes_it_and_off_takes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for setting in ("off", "stderr"):
        audit.configure_audit(setting, tmp_path, service="auth")
        audit.record("changed", method=f"/{setting}")
        audit.stop_audit()
    [line] = capfd.readouterr().err.splitlines()
    assert json.loads(line)["method"] == "/stderr"
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_keeps_the_process_from_starting(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"no/such/audit.log.*No such file.*COXSWAIN_AUDIT_LOG"):
        audit.configure_audit(str(tmp_path / "no/such/audit.log"), tmp_path, service="auth")


def test_texts_are_cut_and_what_looks_like_a_credential_is_hidden(tmp_path: Path) -> None:
    file = tmp_path / "a.log"
    audit.configure_audit(str(file), tmp_path, service="auth")
    audit.record(
        "refused", asked_group_id="Bearer abc.def", resource={"name": "n" * 1000, "key": "sk-0123456789abcdef"}
    )
    [line] = lines(file)
    assert line["asked_group_id"] == "[redacted]"
    assert line["resource"] == {"name": "n" * 256 + "...", "key": "[redacted]"}


def test_lines_that_are_too_many_are_lost_and_counted_instead_of_holding_up_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_answers = threading.Event()

    class SlowFile(audit._AuditFile):
        def emit(self, record: logging.LogRecord) -> None:
            disk_answers.wait()
            super().emit(record)

    monkeypatch.setattr(audit, "_MOST_WAITING", 1)
    monkeypatch.setattr(audit, "_AuditFile", SlowFile)
    before = audit.LOST._value.get()
    file = tmp_path / "a.log"
    audit.configure_audit(str(file), tmp_path, service="auth")
    for _ in range(5):
        audit.record("changed")
    lost = audit.LOST._value.get() - before
    assert lost >= 3
    disk_answers.set()
    assert len(lines(file)) + lost == 5


def test_the_default_file_is_set_aside_when_it_is_large_and_the_oldest_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_ROTATED_BYTES", 300)
    monkeypatch.setattr(audit, "_ROTATED_FILES", 2)
    audit.configure_audit("", tmp_path, service="auth")
    for number in range(14):
        # Three of them pass 300 bytes.
        audit.record("changed", number=number)
    audit.stop_audit()
    found = {
        file.name: [json.loads(line)["number"] for line in file.read_text().splitlines()] for file in tmp_path.iterdir()
    }
    assert found == {"audit.log": [12, 13], "audit.log.1": [9, 10, 11], "audit.log.2": [6, 7, 8]}
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}


def test_processes_that_share_a_file_set_it_aside_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_ROTATED_BYTES", 10)
    first, second = (audit._RotatedFile(tmp_path / "audit.log", delay=True) for _ in range(2))
    line = logging.makeLogRecord({"msg": "0123456789"})
    # Both have the large file open.
    second.stream = second._open()
    first.emit(line)
    second._rotate()
    second.emit(line)
    first.close()
    second.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["audit.log.1", "audit.log.2"]


def test_a_file_of_ones_own_is_left_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_ROTATED_BYTES", 1)
    audit.configure_audit(str(tmp_path / "a.log"), tmp_path, service="auth")
    audit.record("changed")
    audit.stop_audit()
    assert [file.name for file in tmp_path.iterdir()] == ["a.log"]


def test_a_host_and_all_of_them_may_fill_some_lines_a_minute_and_the_rest_is_counted() -> None:
    now = [0.0]
    told: list[int] = []
    lines = StrangerLines(told.append, clock=lambda: now[0])
    assert sum(lines.lets_pass("ipv4:192.0.2.1") for _ in range(100)) == 20
    assert sum(lines.lets_pass(f"ipv4:192.0.2.{host}") for host in range(2, 102)) == 40
    lines.tell()
    lines.tell()
    assert told == [140]
    now[0] = 60.0
    assert lines.lets_pass("ipv4:192.0.2.1")


def test_the_count_is_told_by_itself_when_the_minute_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_strangers, "_SECONDS", 0.05)
    told: queue.Queue[int] = queue.Queue()
    lines = StrangerLines(told.put)
    # A minute may end in between.
    while all(lines.lets_pass("ipv4:192.0.2.1") for _ in range(21)):
        pass
    assert told.get(timeout=30) >= 1


@pytest.mark.parametrize(
    ("request_message", "resource"),
    [
        (
            group_pb2.SetMemberRequest(subject="dev|bob", role=access_pb2.ROLE_EDITOR),
            {"subject": "dev|bob", "role": "ROLE_EDITOR"},
        ),
        (
            secret_pb2.PutSecretRequest(name="llm/openai", value="s3cret", allowed_origins=["https://example.com"]),
            {"name": "llm/openai", "allowed_origins": 1},
        ),
        (memory_pb2.ForgetSubjectRequest(subject="dev|bob", dry_run=True), {"dry_run": True}),
        (
            model_pb2.UpdateModelRequest(
                model=model_pb2.Model(name="m", description="private"), update_mask=FieldMask(paths=["description"])
            ),
            {"model.name": "m", "update_mask": "description"},
        ),
        (group_pb2.CreateGroupRequest(display_name="Legal", request_id="r"), {"display_name": "Legal"}),
    ],
)
def test_of_a_request_only_what_names_the_resource_is_kept(request_message: Any, resource: dict[str, Any]) -> None:
    assert resource_of(request_message) == resource
