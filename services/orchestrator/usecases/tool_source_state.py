"""Whether the tools of a source can be used, and which of its patterns are of no use."""

from collections.abc import Iterator

from services.common.egress import AddressPolicy
from services.common.errors import PermissionDenied
from services.orchestrator.domain.tool_source import ToolSource, matches
from services.orchestrator.tool_resolver import source_problem


def state_problem(source: ToolSource, addresses: AddressPolicy) -> str:
    """Return why no tool of a source can be used now; empty when they can.

    The operator may have closed a network since the source was stored.
    """
    if problem := source_problem(source):
        return problem[1]
    for url in source.spec.addresses:
        try:
            addresses.check_literal(url)
        except PermissionDenied as refusal:
            return refusal.message
        if url.lower().startswith("http://") and not addresses.permits_plain:
            return addresses.refused(url).message
    return ""


def idle_patterns(source: ToolSource) -> Iterator[str]:
    """Yield what to say of each pattern of a listed source that none of its tools matches."""
    if not source.list_revision or len(source.tools) != source.tool_count:
        # It was never listed, or its tools were left out.
        return
    spec, names = source.spec, [tool.name for tool in source.tools]
    patterns = [
        *(("allowed_tools", pattern) for pattern in spec.allowed_tools),
        *(("denied_tools", pattern) for pattern in spec.denied_tools),
        *((f"policies[{index}].tools", policy.tools) for index, policy in enumerate(spec.policies)),
    ]
    for field, pattern in patterns:
        if not any(matches(pattern, name) for name in names):
            yield f'no tool of the source matches "{pattern}" in {field}'
