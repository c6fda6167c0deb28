"""What is kept of messages to agents, across releases."""

import json

from services.common.clock import utc_now
from services.orchestrator.tool_gateway.adapters.a2a.sent_message import SentMessage

SENT = SentMessage("m", utc_now(), "agents.example.com:443", "t", "task-1", "0.3", {"a": 2, "b": 1}, "too short", True)


def test_what_is_kept_of_a_message_is_read_again_also_with_names_of_a_later_release() -> None:
    assert SentMessage.from_handle(SENT.handle()) == SENT
    assert SentMessage.from_handle(json.dumps(json.loads(SENT.handle()) | {"later": {"x": 1}})) == SENT
    assert SENT.last_answered == "b"


def test_what_is_no_handle_gives_no_message() -> None:
    for handle in ("", "[]", "{}", '"text"', '{"sent_at": "2026-01-01T00:00:00+00:00"}'):
        assert SentMessage.from_handle(handle) is None


def test_what_says_nothing_is_left_out() -> None:
    assert set(json.loads(SentMessage("m", utc_now(), "a:1", "").handle())) == {
        "message_id", "sent_at", "address", "tenant", "task_id"
    }  # fmt: skip
