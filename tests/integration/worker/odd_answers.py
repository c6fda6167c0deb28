"""Crews of one agent who can calculate, and answers of its model that no crew expects."""

from typing import Any

from coxswain.orchestrator.v1 import crew_pb2
from tests.integration.worker.installation import CAPABLE, Installation
from tests.support.llm_script import Reply, ToolCall

DONE = "All is worked out."


def reckoner(**agent: Any) -> crew_pb2.CrewSpec:
    """A crew of one agent who can calculate."""
    tools = [crew_pb2.ToolSpec(name="calculator")]
    return crew_pb2.CrewSpec(
        name="reckoners",
        agents=[crew_pb2.AgentSpec(name="clerk", role="Clerk", goal="Reckon", tools=tools, **agent)],
        tasks=[crew_pb2.TaskSpec(name="reckon", description="Work it out.", expected_output="Words", agent="clerk")],
        model=CAPABLE,
    )


def turns(installation: Installation, count: int) -> None:
    """Let the model call a tool that many times first."""
    for number in range(count):
        call = ToolCall(name="calculator", arguments={"expression": f"{number} + 1"})
        installation.llm.on(Reply(tool_calls=[call]), route="chat", times=1)


def requests(installation: Installation) -> int:
    """How often a model was called."""
    return len(installation.llm.calls_where(route="chat"))


def with_schema() -> crew_pb2.CrewSpec:
    spec = reckoner()
    properties = {"name": {"type": "string"}, "score": {"type": "integer"}}
    spec.tasks[0].output_schema.update({"type": "object", "properties": properties, "required": ["name", "score"]})
    return spec


def managed(**agent: Any) -> crew_pb2.CrewSpec:
    spec = reckoner(**agent)
    spec.process = crew_pb2.PROCESS_HIERARCHICAL
    spec.tasks[0].agent = ""
    return spec


def judged() -> crew_pb2.CrewSpec:
    spec = reckoner()
    spec.tasks[0].guardrails.append("Be brief.")
    return spec


def planned() -> crew_pb2.CrewSpec:
    spec = reckoner()
    spec.planning = True
    return spec


def calling(*calls: ToolCall) -> Reply:
    return Reply(tool_calls=list(calls))


def reckoning(expression: str, call_id: str | None = None) -> ToolCall:
    return ToolCall(name="calculator", arguments={"expression": expression}, id=call_id)


DELEGATE = "delegate_work_to_coworker"
ODD: dict[str, tuple[crew_pb2.CrewSpec, Reply, str, str]] = {
    "two calls of one id": (reckoner(), calling(reckoning("1 + 1", "a"), reckoning("2 + 2", "a")), "", DONE),
    "calls without ids": (reckoner(), calling(reckoning("1 + 1", ""), reckoning("2 + 2", "")), "", DONE),
    "sixty calls at once": (reckoner(), calling(*(reckoning(f"{number} + 1") for number in range(60))), "", DONE),
    "an answer beside a call": (reckoner(), Reply(text="Final Answer: no", tool_calls=[reckoning("1")]), "", DONE),
    "a name of control characters": (reckoner(), calling(ToolCall(name="calc\x00\x1b[31m")), "", DONE),
    "a call without a name": (reckoner(), calling(ToolCall(name="")), "", DONE),
    "a name of 5000 letters": (reckoner(), calling(ToolCall(name="x" * 5000)), "", DONE),
    "arguments in a fence": (reckoner(), calling(ToolCall(name="calculator", arguments="```json\n{}\n```")), "", DONE),
    "arguments 20,000 levels deep": (
        reckoner(),
        calling(ToolCall(name="calculator", arguments='{"expression":' + "[" * 20_000 + "]" * 20_000 + "}")),
        "",
        DONE,
    ),
    "JSON in a fence among words": (
        with_schema(), Reply(text='Here:\n```json\n{"name": "a", "score": 3}\n```\nMore?'), "", "Here:"
    ),
    "JSON that is no JSON": (with_schema(), Reply(text='{"name": "a", "score": NaN}'), "TASK_FAILED", "not NaN"),
    "two JSON objects": (with_schema(), Reply(text='{"name": "a"}{"score": 1}'), "TASK_FAILED", "no JSON object"),
    "thoughts without an end": (reckoner(), Reply(text="<think>On and on"), "ANSWER_BLANK", "blank"),
    "nothing but reasoning": (reckoner(), Reply(text="", reasoning="A lot"), "ANSWER_BLANK", "blank"),
    "half an answer that was filtered": (
        reckoner(), Reply(text="Half", finish_reason="content_filter"), "MODEL_REFUSED", '"Half"'
    ),
    "delegation without arguments": (managed(), calling(ToolCall(name=DELEGATE)), "", DONE),
    "delegation to nobody": (
        managed(),
        calling(ToolCall(name=DELEGATE, arguments={"task": "t", "context": "c", "coworker": "Nobody"})),
        "",
        DONE,
    ),
    "a verdict in prose": (judged(), Reply(text="Maybe."), "TASK_FAILED", "no verdict"),
    "a plan in prose": (planned(), Reply(text="First this, then that."), "TASK_FAILED", "no JSON object"),
    "an answer for nobody to read": (reckoner(), Reply(chunks=["x" * 2**20] * 5), "ANSWER_TOO_LARGE", "4,190,208"),
    "a result for nobody to read": (reckoner(), Reply(chunks=["x" * 2**18] * 14), "ANSWER_TOO_LARGE", "the result has"),
}  # fmt: skip
"""By what is odd: the crew, the answer, the reason of the failure (empty: a result), and what that says."""
