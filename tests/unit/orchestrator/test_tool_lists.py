"""What of a list of tools is kept, and how two lists differ."""

import unicodedata
from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.clock import utc_now
from services.orchestrator.domain.tool_source import (
    AcceptedTool,
    ListedTool,
    McpServer,
    SourceKind,
    ToolChange,
    ToolChangeKind,
    ToolSourceSpec,
)
from services.orchestrator.schemas.tool_schemas import schema_fault
from services.orchestrator.tool_gateway.pins import has_changed
from services.orchestrator.tool_gateway.ports import ToolCallRequest
from services.orchestrator.tool_identity import listed_hash
from services.orchestrator.usecases.tool_lists import (
    accepted_tools,
    clean_list,
    shown_text,
    tool_changes,
    with_calls,
)
from tests.support.tool_adapters import principal_of

NOW = utc_now()
SCHEMAS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["#/$defs/a", "https://a.example.com"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "properties", "$ref", "items", "$defs", "description", "required", "anyOf", "enum"]
            )
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)
TOOLS = st.builds(
    ListedTool,
    st.text(max_size=10) | st.just("x" * 129) | st.sampled_from(["pay", "get_user", "*"]),
    st.text(max_size=30) | st.just("é\u202e" * 3000),
    st.dictionaries(st.sampled_from(["type", "properties", "description", "$defs"]), SCHEMAS, max_size=3),
    title=st.text(max_size=20) | st.just("x" * 300),
    output_schema=st.none() | st.dictionaries(st.text(max_size=4), SCHEMAS, max_size=2),
    idempotent_hint=st.none() | st.booleans(),
    warnings=st.lists(st.text(max_size=20), max_size=3).map(tuple),
)


def tool(name: str, description: str = "Does it.", **fields: Any) -> ListedTool:
    return ListedTool(name, description, {"type": "object"}, **fields)


def is_shown(text: str) -> bool:
    return all(one in "\n\t" or unicodedata.category(one) not in {"Cc", "Cf", "Cn", "Co", "Cs"} for one in text)


@settings(max_examples=50)
@given(st.lists(TOOLS, max_size=4))
def test_whatever_a_source_lists_what_is_kept_can_be_shown_stored_and_used(listed: list[ListedTool]) -> None:
    found = clean_list(listed)
    names = [one.name for one in found.tools]
    assert names == sorted(set(names))
    for one in found.tools:
        assert is_shown(one.name + one.title + one.description)
        assert len(one.description.encode()) <= 4096
        assert len(one.name) <= 128
        assert schema_fault(one.arguments_schema) == ""
        assert one.hash
    assert is_shown("".join(found.warnings))
    # What is left out is said.
    assert len(found.tools) == len(listed) or found.warnings
    # Cleaning it again changes nothing.
    assert [one.hash for one in clean_list(found.tools).tools] == [one.hash for one in found.tools]


@given(st.text())
def test_a_text_that_is_shown_stays_and_hidden_characters_go(text: str) -> None:
    shown = shown_text(text)
    assert is_shown(shown)
    assert shown_text(shown) == shown
    assert [one for one in text if is_shown(one)] == list(shown)


def test_the_order_of_a_list_and_of_its_schemas_makes_no_difference() -> None:
    one = ListedTool("a", "A.", {"type": "object", "title": "x"})
    same = ListedTool("a", "A.", {"title": "x", "type": "object"})
    assert clean_list([one, tool("b")]).tools[0].hash == clean_list([tool("b"), same]).tools[0].hash


def test_a_change_names_what_is_different_and_keeps_its_time() -> None:
    before = clean_list([tool("a"), tool("b"), tool("c")]).tools
    after = clean_list([tool("a", "Does more.", idempotent_hint=True), tool("b"), tool("d")]).tools
    changes = tool_changes(accepted_tools(before), after, NOW)
    assert [(change.tool, change.kind, change.parts) for change in changes] == [
        ("a", ToolChangeKind.CHANGED, ("description", "idempotent_hint")),
        ("c", ToolChangeKind.REMOVED, ()),
        ("d", ToolChangeKind.ADDED, ()),
    ]
    later = NOW + timedelta(days=1)
    again = tool_changes(accepted_tools(before), after, later, changes)
    assert again == changes
    other = clean_list([tool("a", "Does other things."), tool("b"), tool("c")]).tools
    (change,) = tool_changes(accepted_tools(before), other, later, changes)
    assert (change.at, change.parts) == (later, ("description",))
    assert tool_changes(accepted_tools(after), after, later) == ()


def before_calls(one: ListedTool) -> AcceptedTool:
    """Return what was kept of a tool when it was not told apart yet how it is called."""
    (kept,) = accepted_tools(clean_list([replace(one, call_digest="", hash="")]).tools).values()
    return AcceptedTool(kept.hash, {part: value for part, value in kept.parts.items() if part != "call_digest"})


def test_what_was_accepted_before_calls_were_told_apart_takes_them_on_once() -> None:
    old = {name: before_calls(tool(name)) for name in ("a", "b", "c", "d")}
    found = clean_list(
        [
            tool("a", call_digest="1"),
            tool("b", "Does more.", call_digest="1"),
            tool("c", call_digest="1"),
            tool("d"),
            tool("e", call_digest="1"),
        ]
    )
    pending = (ToolChange("c", ToolChangeKind.CHANGED, NOW, ("description",)),)
    taken = with_calls(old, found.accepted, pending)
    assert taken == {**old, "a": found.accepted["a"]}
    assert [(one.tool, one.parts) for one in tool_changes(taken, found.tools, NOW)] == [
        ("b", ("description", "call_digest")),
        ("c", ("call_digest",)),
        ("e", ()),
    ]
    # From then on another way of calling it is a change.
    moved = clean_list([tool("a", call_digest="2")])
    assert with_calls(taken, moved.accepted, ())["a"] == taken["a"]
    (change, *_) = tool_changes(taken, moved.tools, NOW)
    assert (change.tool, change.parts) == ("a", ("call_digest",))


def test_a_call_that_was_pinned_before_calls_were_told_apart_is_made_and_no_other() -> None:
    spec = ToolSourceSpec("billing", SourceKind.MCP, McpServer("https://mcp.example.com"))
    now = tool("pay", call_digest="1")
    meant = ToolCallRequest("1", spec, "pay", {}, principal_of(), "e", idempotent=False)

    def differs(pinned: ListedTool) -> bool:
        return has_changed(replace(meant, tool_hash=listed_hash(pinned)), now)

    assert not differs(now)
    assert not differs(replace(now, call_digest=""))
    assert differs(replace(now, call_digest="2"))
    assert differs(replace(now, call_digest="", description="Does more."))


def test_many_warnings_are_counted_and_the_last_one_is_told() -> None:
    listed = [*(tool(f"bad\n{index:04}") for index in range(200)), *(tool(f"t{index:04}") for index in range(600))]
    found = clean_list(listed)
    assert len(found.tools) == 512
    assert len(found.warnings) <= 51
    assert found.warnings[-1] == "it lists 800 tools; the first 512 by name are kept"
    assert "warnings more" in found.warnings[-2]


def test_a_schema_that_refers_to_itself_is_fine_and_one_that_refers_elsewhere_is_not() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
    assert (
        schema_fault({"type": "object", "$defs": {"node": node}, "properties": {"first": {"$ref": "#/$defs/node"}}})
        == ""
    )
    for target in ("https://example.com/a.json", "file:///etc/passwd", "other.json", "//example.com"):
        assert "refers to" in schema_fault({"type": "object", "properties": {"a": {"$ref": target}}})
    assert "nested" in schema_fault({"type": "object", "allOf": [nested(40)]})
    assert "bytes" in schema_fault({"type": "object", "description": "x" * 70_000})


def test_a_reference_that_leads_nowhere_is_told_and_the_tool_is_kept() -> None:
    lost = {"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}
    circle = {"type": "object", "allOf": [{"$ref": "#"}]}
    listed = ListedTool("t", "d", lost, output_schema=circle)
    kept = clean_list([listed])
    assert not kept.warnings
    assert kept.tools[0].warnings == (
        'the schema of its arguments: properties.a.$ref: there is no "#/$defs/none"; calls that need it may be refused',
        'the schema of its results: allOf.0.$ref: "#" leads back to itself; results that need it are not checked',
    )
    assert kept.tools[0].hash == listed_hash(listed), "what is accepted stays so"


def test_an_id_that_is_no_uri_is_told_and_breaks_no_list() -> None:
    odd = {"$id": "https://example.com/t", "type": "object", "properties": {"a": {"$id": "http://[x"}}}
    kept = clean_list([ListedTool("odd", "d", odd), tool("plain")])
    assert [one.name for one in kept.tools] == ["odd", "plain"]
    assert kept.tools[0].warnings == (
        "the schema of its arguments: properties.a.$id: is no URI; calls that need it may be refused",
    )


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"not": value}
    return value
