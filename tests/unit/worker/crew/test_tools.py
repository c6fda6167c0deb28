"""The built-in tools do what the catalogue says of them."""

import contextlib
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.tool_catalogue import TOOLS
from services.orchestrator.worker.crew.tools.base import ToolFailed
from services.orchestrator.worker.crew.tools.calculator import calculate
from services.orchestrator.worker.crew.tools.current_time import describe as describe_time
from services.orchestrator.worker.crew.tools.factory import CLASSES, arguments_model
from services.orchestrator.worker.crew.tools.text_statistics import describe as describe_text


def test_every_pure_tool_of_the_catalogue_can_be_built() -> None:
    assert set(CLASSES) == {name for name, tool in TOOLS.items() if tool.in_crew_process}
    for name in CLASSES:
        model = arguments_model(name)
        assert set(model.model_fields) == set(TOOLS[name].arguments_schema["properties"])


@pytest.mark.parametrize(
    ("expression", "places", "expected"),
    [
        ("1 + 2 * 3", 10, "7"),
        ("(1200 * 0.077) + 35", 10, "127.4"),
        ("10 / 3", 2, "3.33"),
        ("10 / 4", 0, "2"),
        ("-7 // 2", 10, "-4"),
        ("-7 % 3", 10, "2"),
        ("2 ** 10", 10, "1024"),
        ("0.1 + 0.2", 15, "0.3"),
        ("sqrt(2)", 4, "1.4142"),
        ("round(2.675, 2)", 10, "2.68"),
        ("max(1, 2.5, 2)", 10, "2.5"),
        ("abs(-3)", 10, "3"),
        ("100", 10, "100"),
        ("-0.0001", 2, "0"),
        ("10 ** 30", 10, "1" + "0" * 30),
    ],
)
def test_expressions_are_worked_out(expression: str, places: int, expected: str) -> None:
    assert calculate(expression, places) == expected


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("1 / 0", "division by zero"),
        ("0 / 0", "no value"),
        ("sqrt(-1)", "no value"),
        ("9 ** 9 ** 9", "exponent"),
        ("1 +", "not a valid arithmetic"),
        ("", "not a valid arithmetic"),
        ("__import__('os').system('true')", "understood"),
        ("open", "understood"),
        ("(1).real", "understood"),
        ("[1][0]", "understood"),
        ("True + 1", "numbers"),
        ("'a' * 3", "understood"),
        ("sqrt(x=4)", "understood"),
        ("sqrt()", "understood"),
        ("min(1, " * 150 + "1" + ")" * 150, "nested|not a valid arithmetic"),
    ],
)
def test_what_is_not_arithmetic_is_refused(expression: str, why: str) -> None:
    with pytest.raises(ToolFailed, match=why):
        calculate(expression, 10)


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_whole_numbers_are_exact(left: int, right: int) -> None:
    assert calculate(f"{left} + {right}", 10) == str(left + right)
    assert calculate(f"({left}) * ({right})", 10) == str(left * right)


@given(st.text(max_size=60))
def test_nothing_but_a_refusal_comes_of_nonsense(text: str) -> None:
    with contextlib.suppress(ToolFailed):
        calculate(text, 10)


def test_the_time_has_its_zone_and_weekday() -> None:
    moment = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
    assert describe_time(moment, "Europe/Zurich") == "2026-01-01T13:00:00+01:00 (Thursday, Europe/Zurich)"
    with pytest.raises(ToolFailed, match="no time zone"):
        describe_time(moment, "Nowhere/Land")
    with pytest.raises(ToolFailed, match="no time zone"):
        describe_time(moment, "../../etc/passwd")


def test_a_text_is_counted() -> None:
    text = "The sea is wide. It's deep!\n\nThe end"
    assert describe_text(text, 2).splitlines() == [
        f"characters: {len(text)}",
        "words: 8",
        "sentences: 3",
        "paragraphs: 2",
        "most frequent words: the (2), deep (1)",
    ]
    assert describe_text("...", 3).splitlines()[1:] == ["words: 0", "sentences: 0", "paragraphs: 1"]


def test_crew_processes_are_kept_off_the_network() -> None:
    code = """
import socket
from services.orchestrator.worker.crew.guard import close_off
one, other = socket.socketpair()
close_off()
one.sendall(b"links still work")
assert other.recv(100) == b"links still work"
for attempt in (
    lambda: socket.create_connection(("127.0.0.1", 9)),
    lambda: socket.getaddrinfo("example.com", 443),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)),
    lambda: socket.socket().bind(("127.0.0.1", 0)),
):
    try:
        attempt()
    except PermissionError:
        continue
    raise SystemExit("the network could be used")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
