"""The page of metrics says what the code counts."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
_KINDS = {"Counter", "Gauge", "Histogram"}
_METRIC = re.compile(rf"\b({'|'.join(_KINDS)})\(")


@cache
def calls() -> list[tuple[str, ast.Call]]:
    """Return what is called by its name in the files of the services that make metrics."""
    texts = (file.read_text(encoding="utf-8") for file in sorted((ROOT / "services").rglob("*.py")))
    return [
        (node.func.id, node)
        for text in texts
        if _METRIC.search(text)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]


@cache
def counted() -> dict[str, list[str]]:
    """Return the labels of each metric that the services have."""
    return {
        str(call.args[0].value): list(ast.literal_eval(call.args[2])) if len(call.args) > 2 else []
        for name, call in calls()
        if name in _KINDS and call.args and isinstance(call.args[0], ast.Constant)
    }


# Labels that become known with methods, with chains of credentials and with models that are called.
_LATER = {
    "coxswain_rpc_total",
    "coxswain_rpc_refused_total",
    "coxswain_protocol_refusals_total",
    "coxswain_credentials_total",
    "coxswain_credentials_refused_total",
    "coxswain_models_calls_total",
    "coxswain_models_tokens_total",
    "coxswain_models_cost_dollars_total",
}


def test_counters_are_there_from_the_start_where_their_labels_are_known() -> None:
    begun = set()
    labelled = set()
    for name, call in calls():
        if name == "from_the_start" and isinstance(counter := call.args[0], ast.Call):
            begun.add(ast.literal_eval(counter.args[0]))
        if name == "Counter" and len(call.args) > 2:
            labelled.add(ast.literal_eval(call.args[0]))
    assert labelled == begun | _LATER
    assert not begun & _LATER


def test_every_metric_is_documented_with_its_labels_and_nothing_else_is() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]*)\|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    assert {name: re.findall(r"\w+", labels) for name, labels in rows} == counted()
