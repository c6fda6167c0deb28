"""What is wrong with a source by itself."""

from services.common.egress import AddressPolicy
from services.orchestrator.domain.crew import OnDeadline
from services.orchestrator.domain.tool_source import (
    HttpApi,
    HttpOperation,
    McpServer,
    SourceKind,
    ToolPolicy,
    ToolSourceSpec,
)
from services.orchestrator.usecases.tool_source_faults import source_faults

ADDRESSES = AddressPolicy(setting="COXSWAIN_TOOLS_EGRESS_ALLOWED_NETWORKS")


def faulty_fields(*policies: ToolPolicy) -> list[str]:
    spec = ToolSourceSpec("billing", SourceKind.MCP, McpServer("https://mcp.example.com"), policies=policies)
    return [fault.field for fault in source_faults(spec, ADDRESSES, from_operator=False)]


def test_what_becomes_of_a_question_needs_a_deadline_from_any_policy() -> None:
    decline = ToolPolicy("pay*", approval_on_deadline=OnDeadline.DECLINE)
    assert faulty_fields(decline) == ["spec.policies[0].approval_on_deadline"]
    assert faulty_fields(decline, ToolPolicy(timeout=5)) == ["spec.policies[0].approval_on_deadline"]
    # Values of all policies that match a tool count together.
    assert faulty_fields(decline, ToolPolicy(approval_deadline=60)) == []
    assert faulty_fields(ToolPolicy(approval_deadline=60), decline) == []


def test_arguments_that_refer_to_no_schema_are_a_fault_of_the_operation() -> None:
    schema = {"type": "object", "properties": {"id": {"$ref": "#/$defs/id"}}}
    api = HttpApi("https://api.example.com", (HttpOperation("get", "d", "GET", "/{id}", schema),))
    found = source_faults(ToolSourceSpec("billing", SourceKind.HTTP, api), ADDRESSES, from_operator=False)
    assert [(fault.field, fault.description) for fault in found] == [
        ("spec.http.operations[0].arguments_schema", 'properties.id.$ref: there is no "#/$defs/id"')
    ]
