"""Which models a crew needs, for what, and who named them."""

from dataclasses import replace
from typing import Any

from services.orchestrator.domain.crew import (
    AgentSpec,
    ConsolidationSpec,
    CrewSpec,
    MemorySpec,
    ModelCallSettings,
    Process,
    TaskSpec,
    ToolCalling,
    ToolSpec,
)
from services.orchestrator.usecases.model_needs import Capability, ModelNeed, model_needs

AGENT = AgentSpec("reader", "Reader", "Read")
TASK = TaskSpec("read", "Read", "Text", "reader")


def needs(agent: AgentSpec = AGENT, task: TaskSpec = TASK, override: str = "", **fields: Any) -> set[ModelNeed]:
    agents = fields.pop("agents", (agent,))
    return set(model_needs(CrewSpec("c", agents, (task,), **fields), default="default", override=override))


def test_who_names_no_model_gets_the_crews_and_then_the_installations() -> None:
    assert needs() == {ModelNeed("default", Capability.CHAT, "spec.agents[0]", "")}
    assert needs(model="m") == {ModelNeed("m", Capability.CHAT, "spec.agents[0]", "spec.model")}
    own = replace(AGENT, model="own")
    assert needs(own, model="m") == {ModelNeed("own", Capability.CHAT, "spec.agents[0]", "spec.agents[0].model")}


def test_tools_need_the_model_that_calls_them_to_be_able_to() -> None:
    tools = (ToolSpec("calculator"),)
    calling = replace(AGENT, model="own", function_calling_model="caller", tools=tools)
    named = "spec.agents[0].function_calling_model"
    assert needs(calling, replace(TASK, tools=tools)) == {
        ModelNeed("own", Capability.CHAT, "spec.agents[0]", "spec.agents[0].model"),
        ModelNeed("caller", Capability.TOOLS, named, named, in_words=True),
        ModelNeed("caller", Capability.TOOLS, "spec.agents[0].tools", named, in_words=True),
        ModelNeed("caller", Capability.TOOLS, "spec.tasks[0].tools", named, in_words=True),
    }


def test_an_agent_may_insist_on_native_tool_calls() -> None:
    native = ModelCallSettings(tool_calling=ToolCalling.NATIVE)
    calling = replace(AGENT, tools=(ToolSpec("calculator"),))
    need = ModelNeed("default", Capability.TOOLS, "spec.agents[0].tools", "")
    assert need in needs(calling, model_calls=native)
    assert need in needs(replace(calling, model_calls=native))
    in_words = replace(calling, model_calls=ModelCallSettings(tool_calling=ToolCalling.IN_WORDS))
    assert replace(need, in_words=True) in needs(in_words, model_calls=native)


def test_delegation_needs_tools_only_where_there_is_somebody_to_delegate_to() -> None:
    delegating = replace(AGENT, allow_delegation=True)
    need = ModelNeed("default", Capability.TOOLS, "spec.agents[0].allow_delegation", "", in_words=True)
    assert need not in needs(delegating)
    assert need in needs(agents=(delegating, replace(AGENT, name="other")))


def test_a_manager_needs_tools() -> None:
    made = needs(process=Process.HIERARCHICAL, manager_model="boss")
    assert ModelNeed("boss", Capability.TOOLS, "spec.process", "spec.manager_model", in_words=True) in made
    manager = replace(AGENT, name="manager", model="own")
    chosen = needs(agents=(AGENT, manager), process=Process.HIERARCHICAL, manager_agent="manager")
    assert ModelNeed("own", Capability.TOOLS, "spec.manager_agent", "spec.agents[1].model", in_words=True) in chosen
    assert not any(need.field == "spec.process" for need in chosen)


def test_schemas_guardrails_plans_and_analysed_memories_need_json() -> None:
    task = replace(TASK, output_schema={"type": "object"}, guardrails=("Be brief",))
    found = needs(
        task=task, model="m", planning=True, planning_model="p", memory=MemorySpec(True, "embedder", analysis=True)
    )
    assert found >= {
        ModelNeed("m", Capability.JSON_SCHEMA, "spec.tasks[0].output_schema", "spec.model"),
        ModelNeed("m", Capability.JSON_SCHEMA, "spec.tasks[0].guardrails", "spec.model"),
        ModelNeed("p", Capability.JSON_SCHEMA, "spec.planning", "spec.planning_model"),
        ModelNeed("m", Capability.JSON_SCHEMA, "spec.memory.analysis", "spec.model"),
        ModelNeed("embedder", Capability.EMBEDDINGS, "spec.memory.embedding_model", "spec.memory.embedding_model"),
    }
    [own] = needs(model="m", memory=MemorySpec(True, model="own", consolidation=ConsolidationSpec())) - needs(model="m")
    assert own == ModelNeed("own", Capability.JSON_SCHEMA, "spec.memory.consolidation", "spec.memory.model")
    only_read = MemorySpec(True, model="own", consolidation=ConsolidationSpec(), read_only=True)
    assert needs(model="m", memory=only_read) == needs(model="m")
    switched_off = needs(memory=MemorySpec(False, "embedder", analysis=True))
    assert {need.capability for need in switched_off} == {Capability.CHAT}


def test_an_override_stands_for_every_model_but_that_of_embeddings() -> None:
    agent = replace(AGENT, model="own", function_calling_model="caller", tools=(ToolSpec("calculator"),))
    found = needs(
        agent, override="o", model="m", planning=True, planning_model="p", memory=MemorySpec(True, "embedder")
    )
    assert {(need.model, need.capability) for need in found} == {
        ("o", Capability.CHAT),
        ("o", Capability.TOOLS),
        ("o", Capability.JSON_SCHEMA),
        ("embedder", Capability.EMBEDDINGS),
    }
