"""Rules and dashboard ask for metrics that there are, by labels that these have, and autoscalers do as well."""

import json
import re
from collections.abc import Iterator
from functools import cache

import promql_parser
import pytest

from tests.unit.deploy.manifests import K8S, ROOT, read
from tests.unit.test_metrics_page import counted

COMPONENTS = K8S / "components"
DASHBOARD = json.loads((COMPONENTS / "monitoring" / "dashboard.json").read_text(encoding="utf-8"))
TARGET_LABELS = {"namespace", "pod", "service", "job", "instance", "container"}
"""What scraping by the PodMonitor adds."""


def alerts() -> list[dict[str, str]]:
    (rules,) = read(COMPONENTS / "monitoring" / "rules.yaml")
    return [rule for group in rules["spec"]["groups"] for rule in group["rules"]]


def asked_by_rules() -> Iterator[tuple[str, str]]:
    for rule in alerts():
        yield rule["alert"], rule["expr"]


def asked_by_dashboard() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            # What Grafana fills in.
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$namespace", "coxswain")


def asked_by_autoscalers() -> Iterator[tuple[str, str]]:
    for scaled in read(COMPONENTS / "keda" / "scaled-objects.yaml"):
        for trigger in scaled["spec"]["triggers"]:
            if trigger["type"] == "prometheus":
                yield scaled["metadata"]["name"], trigger["metadata"]["query"]


@cache
def exported() -> dict[str, set[str]]:
    """The labels of each series that a scrape shows."""
    series = {name: set(labels) for name, labels in counted().items()}
    seconds = [name for name in series if name.endswith("_seconds")]
    return series | {f"{name}_{part}": series[name] | {"le"} for name in seconds for part in ("bucket", "count", "sum")}


def used(expression: str) -> dict[str, set[str]]:
    """The labels that an expression asks for, by the series that it asks."""
    found: dict[str, set[str]] = {}

    def below(node: object, grouping: set[str]) -> None:
        match node:
            case promql_parser.AggregateExpr():
                below(node.expr, grouping | set(node.modifier.labels if node.modifier else ()))
            case promql_parser.Call():
                for argument in node.args:
                    below(argument, grouping)
            case promql_parser.BinaryExpr():
                below(node.lhs, grouping)
                below(node.rhs, grouping)
            case promql_parser.ParenExpr() | promql_parser.UnaryExpr():
                below(node.expr, grouping)
            case promql_parser.MatrixSelector():
                below(node.vector_selector, grouping)
            case promql_parser.VectorSelector():
                matched = {matcher.name for matcher in node.matchers.matchers}
                found.setdefault(node.name or "", set()).update(grouping | matched)
            case promql_parser.NumberLiteral():
                pass
            case _:
                raise AssertionError(f"{node} is not known here")

    below(promql_parser.parse(expression), set())
    return found


@pytest.mark.parametrize(
    ("name", "expression"),
    [*asked_by_rules(), *asked_by_dashboard(), *asked_by_autoscalers()],
    ids=lambda text: text[:40],
)
def test_each_expression_asks_for_series_and_labels_that_there_are(name: str, expression: str) -> None:
    asked = used(expression)
    assert asked
    for series, labels in asked.items():
        assert series in exported(), (name, series)
        assert labels <= exported()[series] | TARGET_LABELS, (name, series)
        is_counter = series.endswith(("_total", "_bucket", "_count", "_sum"))
        assert is_counter == bool(re.search(rf"(?:rate|increase)\({series}", expression)), (name, series)


def test_values_of_labels_are_those_that_are_counted() -> None:
    known = {
        "caller": {"client"},
        "code": {"INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"},
        "listener": {"public"},
        "state": {"busy", "free", "in_use"},
        "outcome": {"failed", "UPSTREAM_UNAVAILABLE", "UPSTREAM_RATE_LIMITED", "ABSENT"},
        "link": {"environment", "sdk_default"},
    }
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "services").rglob("*.py"))
    for _, expression in (*asked_by_rules(), *asked_by_dashboard(), *asked_by_autoscalers()):
        for label, values in re.findall(r'(\w+)!?=~?"([\w|]+)"', expression):
            if label in known:
                assert set(values.split("|")) <= known[label], expression
    for value in {value for values in known.values() for value in values}:
        assert f'"{value}"' in sources, value


def test_every_metric_is_on_the_dashboard_or_alarming_but_those_that_only_a_search_needs() -> None:
    asked = {name for _, expression in (*asked_by_rules(), *asked_by_dashboard()) for name in used(expression)}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert set(counted()) - shown == {
        "coxswain_memory_unreadable_rows_total",
        "coxswain_models_budget_alerts_total",
        "coxswain_models_seconds",
    }


def test_each_alert_says_how_bad_it_is_and_what_to_do() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    for rule in alerts():
        assert rule["labels"]["severity"] in {"critical", "warning"}  # type: ignore[index]
        assert set(rule["annotations"]) == {"summary", "description"}
        for label in re.findall(r"\$labels\.(\w+)", str(rule["annotations"])):
            assert any(label in labels for labels in used(rule["expr"]).values()) or "by" not in rule["expr"], rule
