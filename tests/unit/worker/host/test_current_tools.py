"""A call obeys what is stored of its tool when it is begun, without a statement for each call."""

from dataclasses import replace

from services.orchestrator.domain.crew import ToolSpec
from services.orchestrator.domain.tool import ResolvedTool
from services.orchestrator.domain.tool_source import ApprovalRule
from services.orchestrator.worker.host.current_tools import CurrentTools, SourceVersions

PAY = ResolvedTool(
    name="billing/pay",
    model_name="billing__pay",
    description="Pays.",
    arguments_schema={"type": "object"},
    hash="h",
    config={},
    idempotent=False,
    source_id="s",
    spec=ToolSpec("billing/pay"),
    source_version="1",
)


class Stored:
    """What is stored, and how often it is read."""

    def __init__(self) -> None:
        self.version = "1"
        self.tool = PAY
        self.reads = 0
        self.resolved = 0

    async def versions(self, group_id: str) -> dict[str, str]:
        assert group_id == "sales"
        self.reads += 1
        return {"billing": self.version}

    async def resolve(self, tool: ResolvedTool) -> ResolvedTool:
        assert tool == PAY
        self.resolved += 1
        return self.tool


async def test_calls_of_a_group_share_one_statement_and_read_nothing_anew_while_nothing_changes() -> None:
    stored = Stored()
    versions = SourceVersions(stored.versions, known_seconds=3600)
    for _ in range(2):
        tools = CurrentTools("sales", versions, stored.resolve)
        assert [await tools.now(PAY) for _ in range(50)] == [PAY] * 50
    assert (stored.reads, stored.resolved) == (1, 0)
    await versions.close()


async def test_a_tool_is_read_once_for_each_version_of_its_source() -> None:
    stored = Stored()
    tools = CurrentTools("sales", SourceVersions(stored.versions, known_seconds=0), stored.resolve)
    assert await tools.now(PAY) == PAY
    stored.version, stored.tool = "2", replace(PAY, approval=ApprovalRule.ALWAYS, source_version="2")
    assert [(await tools.now(PAY)).approval for _ in range(3)] == [ApprovalRule.ALWAYS] * 3
    assert stored.resolved == 1
    stored.version, stored.tool = "", replace(PAY, problem_reason="TOOL_NOT_FOUND", source_version="")
    assert [(await tools.now(PAY)).problem_reason for _ in range(3)] == ["TOOL_NOT_FOUND"] * 3
    assert stored.resolved == 2


async def test_built_in_tools_have_no_source_that_could_change() -> None:
    stored = Stored()
    tools = CurrentTools("sales", SourceVersions(stored.versions, known_seconds=0), stored.resolve)
    own = replace(PAY, name="web_fetch", source_id="", spec=ToolSpec("web_fetch"), source_version="")
    assert await tools.now(own) == own
    assert stored.reads == 0
