"""The page of metrics says what the code counts."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_KINDS = {"Counter", "Gauge", "Histogram"}


def counted() -> dict[str, list[str]]:
    """Return the labels of each metric that the services have."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "services").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in _KINDS:
                continue
            if node.args and isinstance(node.args[0], ast.Constant):
                found[str(node.args[0].value)] = list(ast.literal_eval(node.args[2])) if len(node.args) > 2 else []
    return found


def test_every_metric_is_documented_with_its_labels_and_nothing_else_is() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]*)\|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    assert {name: re.findall(r"\w+", labels) for name, labels in rows} == counted()
