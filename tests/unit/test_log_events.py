"""The page of log events says what the code logs."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"} | {
    "critical": "critical"
}


def logged() -> dict[str, set[str]]:
    """Return the levels of each event that the services log."""
    found: dict[str, set[str]] = {}
    for file in sorted((ROOT / "services").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "logger." in text else ():
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if not isinstance(node.func.value, ast.Name) or node.func.value.id != "logger" or not node.args:
                continue
            event = node.args[0]
            assert isinstance(event, ast.Constant), f"{file}:{node.lineno}: an event is a literal name"
            found.setdefault(str(event.value), set()).add(LEVELS[node.func.attr])
    return found


def test_every_event_is_documented_with_its_levels_and_nothing_else_is() -> None:
    rows = re.findall(r"^\| `([a-z0-9_]+)` \| ([a-z, ]+) \|", (ROOT / "docs/log-events.md").read_text(), re.MULTILINE)
    assert {event: set(levels.split(", ")) for event, levels in rows} == logged()
