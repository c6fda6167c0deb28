"""The page of metrics says what the code counts."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
_KINDS = {"Counter", "Gauge", "Histogram"}


@cache
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


# Labels that become known with methods, with chains of credentials and with models that are called.
_LATER = {
    "coxswain_rpc_total",
    "coxswain_rpc_refused_total",
    "coxswain_credentials_total",
    "coxswain_credentials_refused_total",
    "coxswain_models_calls_total",
    "coxswain_models_tokens_total",
    "coxswain_models_cost_dollars_total",
}


def test_counters_are_there_from_the_start_where_their_labels_are_known() -> None:
    begun = set()
    labelled = set()
    for file in sorted((ROOT / "services").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if node.func.id == "from_the_start" and isinstance(counter := node.args[0], ast.Call):
                begun.add(ast.literal_eval(counter.args[0]))
            if node.func.id == "Counter" and len(node.args) > 2:
                labelled.add(ast.literal_eval(node.args[0]))
    assert labelled == begun | _LATER
    assert not begun & _LATER


def test_every_metric_is_documented_with_its_labels_and_nothing_else_is() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]*)\|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    assert {name: re.findall(r"\w+", labels) for name, labels in rows} == counted()
