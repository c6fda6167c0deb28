"""What the gateway takes for a call."""

from datetime import UTC, datetime
from typing import Any

import pytest

from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from services.common.errors import InvalidArgument
from services.common.grpc.json_values import to_struct
from services.common.identity.principal import CredentialKind, Principal, Role
from services.orchestrator.tool_catalogue import TOOLS
from services.orchestrator.tool_gateway.servicers.messages import order_from_proto

ALICE = Principal(
    "dev|alice", "sales", Role.EDITOR, False, CredentialKind.DEV, "", "", datetime.max.replace(tzinfo=UTC)
)
WITH_SETTINGS = [name for name, tool in TOOLS.items() if tool.config_schema.get("required")]


def order(tool: str, config: dict[str, Any]) -> object:
    request = pb.ExecuteToolCallRequest(call_id="call-1", tool=tool, config=to_struct(config))
    return order_from_proto(request, ALICE, None, timeout=10, max_timeout=60)


@pytest.mark.parametrize("tool", WITH_SETTINGS)
@pytest.mark.parametrize("config", [{}, {"no such setting": 1}], ids=["none", "unknown"])
def test_a_built_in_tool_without_the_settings_it_needs_is_not_called(tool: str, config: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        order(tool, config)
    assert {violation.field for violation in refused.value.violations} == {"config"}


def test_a_setting_of_another_type_is_named() -> None:
    with pytest.raises(InvalidArgument) as refused:
        order("databricks_job_run", {"job_id": "seven"})
    assert [violation.field for violation in refused.value.violations] == ["config.job_id"]


def test_a_tool_with_its_settings_and_one_of_a_source_are_taken() -> None:
    assert order("databricks_job_run", {"job_id": 7})
    assert order("shop/look", {})
