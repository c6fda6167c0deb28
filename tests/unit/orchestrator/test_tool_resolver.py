"""What the tools that a crew names become."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.clock import utc_now
from services.orchestrator.domain.crew import OnDeadline, ToolSpec
from services.orchestrator.domain.tool import ResolvedTool
from services.orchestrator.domain.tool_source import (
    AcceptedTool,
    ApprovalRule,
    ListedTool,
    McpServer,
    OnToolChange,
    SourceKind,
    ToolChange,
    ToolChangeKind,
    ToolPolicy,
    ToolSource,
    ToolSourceSpec,
    matches,
)
from services.orchestrator.tool_resolver import resolve_tools

NOW = utc_now()
SPEC = ToolSourceSpec("billing", SourceKind.MCP, McpServer("https://mcp.example.com"))


def listed(name: str, digest: str = "1", **fields: Any) -> ListedTool:
    return ListedTool(name, f"{name}s.", {"type": "object"}, hash=digest, **fields)


def source(*tools: ListedTool, accepted: dict[str, str] | None = None, **fields: Any) -> ToolSource:
    hashes = {tool.name: tool.hash for tool in tools} if accepted is None else accepted
    return ToolSource(
        id="s",
        group_id="sales",
        revision=1,
        spec=replace(SPEC, **fields),
        tools=tools,
        created_at=NOW,
        updated_at=NOW,
        list_revision=1,
        accepted={name: AcceptedTool(digest) for name, digest in hashes.items()},
    )


def resolved(
    *names: str | ToolSpec, of: ToolSource | None = None, pins: dict[str, str] | None = None
) -> list[ResolvedTool]:
    specs = [ToolSpec(name) if isinstance(name, str) else name for name in names]
    return resolve_tools(specs, {} if of is None else {of.spec.name: of}, pins)


def test_a_built_in_tool_is_as_the_catalogue_says() -> None:
    (tool,) = resolved(ToolSpec("calculator", {"decimal_places": 2}))
    assert (tool.name, tool.model_name, tool.config) == ("calculator", "calculator", {"decimal_places": 2})
    assert (tool.in_crew_process, tool.idempotent, tool.problem) == (True, True, "")
    assert tool.hash


def test_of_two_specs_of_one_tool_the_later_counts() -> None:
    (tool,) = resolved(ToolSpec("calculator", max_calls=1), ToolSpec("calculator", max_calls=2))
    assert tool.max_calls == 2


@pytest.mark.parametrize(
    ("name", "of", "reason", "said"),
    [
        ("calculater", None, "TOOL_NOT_FOUND", 'did you mean "calculator"?'),
        ("bill/pay", source(listed("pay")), "TOOL_NOT_FOUND", 'did you mean "billing"?'),
        ("billing/pays", source(listed("pay")), "TOOL_NOT_FOUND", 'did you mean "billing/pay"?'),
        ("billing/pay", source(listed("pay"), disabled=True), "TOOL_DISABLED", "switched off"),
        ("billing/*", source(listed("pay"), disabled=True), "TOOL_DISABLED", "switched off"),
        ("billing/pay", source(listed("pay"), denied_tools=("p*",)), "TOOL_DISABLED", "allows"),
        (
            "billing/pay",
            replace(source(), list_revision=0, list_error="refused"),
            "TOOL_UNAVAILABLE",
            "could not be listed yet: refused",
        ),
        (
            "billing/pay",
            replace(source(), changes=(ToolChange("pay", ToolChangeKind.REMOVED, NOW),)),
            "TOOL_NOT_FOUND",
            f"since {NOW:%Y-%m-%d}",
        ),
    ],
)
def test_what_cannot_be_used_says_why(name: str, of: ToolSource | None, reason: str, said: str) -> None:
    (tool,) = resolved(name, of=of)
    assert tool.problem_reason == reason
    assert said in tool.problem


def test_every_tool_of_a_source_leaves_out_what_is_not_allowed() -> None:
    of = source(listed("pay"), listed("refund"), listed("peek"), allowed_tools=("p*", "refund"), denied_tools=("pay",))
    assert [tool.name for tool in resolved("billing/*", of=of)] == ["billing/refund", "billing/peek"]


def test_a_tool_that_is_named_by_itself_keeps_its_own_limits_beside_all_of_its_source() -> None:
    of = source(listed("pay"), listed("peek"))
    for specs in (
        (ToolSpec("billing/pay", max_calls=1), ToolSpec("billing/*", max_calls=5)),
        (ToolSpec("billing/*", max_calls=5), ToolSpec("billing/pay", max_calls=1)),
    ):
        assert {tool.name: tool.max_calls for tool in resolved(*specs, of=of)} == {"billing/pay": 1, "billing/peek": 5}


def test_policies_give_each_value_from_the_first_that_has_one() -> None:
    policies = (
        ToolPolicy("pay", approval=ApprovalRule.WHEN, approval_condition="arguments.amount > 10", timeout=5),
        ToolPolicy("p*", idempotent=True, timeout=9, max_timeout=20, max_calls_per_execution=3, cost=0.5),
        ToolPolicy("*", approval=ApprovalRule.ALWAYS, result_limit=1000),
    )
    of = source(listed("pay"), listed("refund"), policies=policies)
    pay, refund = resolved("billing/*", of=of)
    assert (pay.approval, pay.approval_condition) == (ApprovalRule.WHEN, "arguments.amount > 10")
    assert (pay.timeout, pay.max_timeout, pay.max_calls, pay.cost, pay.result_limit) == (5, 20, 3, 0.5, 1000)
    assert pay.idempotent
    assert (refund.approval, refund.approval_condition, refund.timeout) == (ApprovalRule.ALWAYS, "", 60)
    assert not refund.idempotent


@pytest.mark.parametrize(
    ("kind", "trusted", "stated", "hint", "idempotent"),
    [
        (SourceKind.MCP, None, None, True, False),
        (SourceKind.MCP, True, None, True, True),
        (SourceKind.MCP, True, None, None, False),
        (SourceKind.MCP, True, False, True, False),
        (SourceKind.MCP, None, True, False, True),
        (SourceKind.GRPC, None, None, True, False),
        (SourceKind.HTTP, None, None, True, True),
        (SourceKind.HTTP, None, None, False, False),
    ],
)
def test_a_hint_is_a_claim_that_only_a_policy_makes_count(
    kind: SourceKind, trusted: bool | None, stated: bool | None, hint: bool | None, idempotent: bool
) -> None:
    policy = ToolPolicy(trust_hints=trusted, idempotent=stated)
    of = source(listed("pay", idempotent_hint=hint), kind=kind, policies=(policy,))
    assert resolved("billing/pay", of=of)[0].idempotent is idempotent


def test_a_crew_only_narrows_what_its_source_allows() -> None:
    policies = (ToolPolicy(timeout=10, max_calls_per_execution=5, result_limit=1000, approval=ApprovalRule.ALWAYS),)
    of = source(listed("pay"), policies=policies)
    wide = ToolSpec("billing/pay", timeout=100, max_calls=50, result_limit=10000)
    (tool,) = resolved(wide, of=of)
    assert (tool.timeout, tool.max_calls, tool.result_limit) == (10, 5, 1000)
    assert tool.approval is ApprovalRule.ALWAYS
    narrow = ToolSpec("billing/pay", timeout=1, max_calls=2, result_limit=300, requires_approval=True)
    (tool,) = resolved(narrow, of=source(listed("pay")))
    assert (tool.timeout, tool.max_calls, tool.result_limit) == (1, 2, 300)
    assert tool.approval is ApprovalRule.ALWAYS


def test_silence_never_approves_where_a_crew_wants_a_person() -> None:
    def on_deadline(said: OnDeadline, *, required: bool) -> OnDeadline:
        policy = ToolPolicy(approval_deadline=60, approval_on_deadline=said)
        spec = ToolSpec("billing/pay", requires_approval=required)
        return resolved(spec, of=source(listed("pay"), policies=(policy,)))[0].approval_on_deadline

    assert on_deadline(OnDeadline.ACCEPT_DEFAULT, required=True) is OnDeadline.DECLINE
    assert on_deadline(OnDeadline.ACCEPT_DEFAULT, required=False) is OnDeadline.ACCEPT_DEFAULT
    assert on_deadline(OnDeadline.CANCEL, required=True) is OnDeadline.CANCEL


PINNED = {"billing/pay": "old"}
CHANGED = {"pay": "old"}


@pytest.mark.parametrize(
    ("on_change", "pins", "accepted", "reason", "changed"),
    [
        (OnToolChange.BLOCK, PINNED, CHANGED, "TOOL_CHANGED", False),
        (OnToolChange.EVENT, PINNED, CHANGED, "", True),
        (OnToolChange.ACCEPT, PINNED, CHANGED, "", False),
        # Somebody has accepted it since.
        (OnToolChange.BLOCK, PINNED, {"pay": "new"}, "", False),
        (OnToolChange.EVENT, PINNED, {"pay": "new"}, "", False),
        # The crew was stored with it before anybody accepted it.
        (OnToolChange.BLOCK, {"billing/pay": "new"}, CHANGED, "", False),
        # A crew that is being stored: what was accepted counts.
        (OnToolChange.BLOCK, None, CHANGED, "TOOL_CHANGED", False),
        (OnToolChange.BLOCK, None, {"pay": "new"}, "", False),
        (OnToolChange.EVENT, None, CHANGED, "", False),
    ],
)
def test_a_changed_tool_does_what_its_source_says(
    on_change: OnToolChange,
    pins: dict[str, str] | None,
    accepted: dict[str, str],
    reason: str,
    changed: bool,
) -> None:
    of = source(listed("pay", "new"), accepted=accepted, on_change=on_change)
    for name in ("billing/pay", "billing/*"):
        (tool,) = resolved(name, of=of, pins=pins)
        assert (tool.problem_reason, tool.changed) == (reason, changed)


@pytest.mark.parametrize(
    ("on_change", "accepted", "names"),
    [
        (OnToolChange.BLOCK, {"pay": "1"}, ["billing/pay"]),
        (OnToolChange.BLOCK, {"pay": "1", "refund": "1"}, ["billing/pay", "billing/refund"]),
        (OnToolChange.EVENT, {"pay": "1"}, ["billing/pay", "billing/refund"]),
        (OnToolChange.ACCEPT, {"pay": "1"}, ["billing/pay", "billing/refund"]),
    ],
)
def test_a_new_tool_is_used_by_crews_that_name_all_only_where_the_source_says_so(
    on_change: OnToolChange, accepted: dict[str, str], names: list[str]
) -> None:
    of = source(listed("pay"), listed("refund"), accepted=accepted, on_change=on_change)
    tools = resolved("billing/*", of=of, pins={"billing/pay": "1"})
    assert [tool.name for tool in tools] == names
    assert [tool.name for tool in resolved("billing/*", of=of)] == names
    assert [tool.name for tool in tools if tool.changed] == (
        ["billing/refund"] if on_change is OnToolChange.EVENT else []
    )


@given(st.text(alphabet="ab*?", max_size=12), st.text(alphabet="ab", max_size=12))
def test_patterns_match_as_the_regular_expressions_of_the_same_meaning(pattern: str, name: str) -> None:
    expression = "".join({"*": "[ab]*", "?": "[ab]"}.get(character, character) for character in pattern)
    assert matches(pattern, name) is (re.fullmatch(expression, name) is not None)


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    assert not matches("*a" * 64 + "b", "a" * 128)
