"""Crews on their way from the wire to the row and back."""

import math

import pytest
from google.protobuf import struct_pb2
from google.protobuf.duration_pb2 import Duration
from hypothesis import given, settings
from hypothesis import strategies as st

from coxswain.common.v1 import access_pb2
from coxswain.memory.v1 import memory_pb2, record_pb2
from coxswain.orchestrator.v1 import crew_pb2, question_state_pb2
from services.common.errors import InvalidArgument
from services.common.grpc.json_values import from_value, to_value
from services.orchestrator.domain.crew import CrewSpec
from services.orchestrator.domain.document import from_document, to_document
from services.orchestrator.messages.crews import memory_id_request_to_proto, spec_from_proto, spec_to_proto

NAMES = st.text(min_size=1, max_size=6)
# Documents know whole numbers, of which none is a negative zero.
FLOATS = st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.0)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | FLOATS | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(NAMES, JSON, max_size=3)


def struct(document: object) -> struct_pb2.Struct:
    return to_value(document).struct_value


TOOLS = st.lists(
    st.builds(
        lambda name, config, approval, limit: crew_pb2.ToolSpec(
            name=name,
            config=struct(config),
            requires_approval=approval,
            timeout=None if limit is None else Duration(seconds=limit),
            max_calls=limit,
            result_limit=limit,
        ),
        NAMES,
        OBJECTS,
        st.booleans(),
        st.none() | st.integers(256, 86400),
    ),
    max_size=2,
)
KNOWLEDGE = st.lists(
    st.builds(lambda name: crew_pb2.KnowledgeSpec(name=name, content=name), NAMES)
    | st.builds(
        lambda name, kind: crew_pb2.KnowledgeSpec(
            name=name, memory=crew_pb2.KnowledgeMemory(memory_id=name, kind=kind, scope=name, document_ids=[name])
        ),
        NAMES,
        st.sampled_from([kind for kind in record_pb2.MemoryKind.values() if kind]),
    ),
    max_size=2,
)
CHECKS = st.lists(
    st.sampled_from(
        [
            crew_pb2.OutputCheck(matches="a", message="b"),
            crew_pb2.OutputCheck(matches_not="a"),
            crew_pb2.OutputCheck(characters=crew_pb2.OutputLength(min=1)),
            crew_pb2.OutputCheck(words=crew_pb2.OutputLength(max=9)),
            crew_pb2.OutputCheck(json_schema=struct({"type": "object"})),
            crew_pb2.OutputCheck(json_schema=struct({})),
            crew_pb2.OutputCheck(required_words=crew_pb2.WordList(words=["a"])),
            crew_pb2.OutputCheck(forbidden_words=crew_pb2.WordList(words=["a", "b"])),
            crew_pb2.OutputCheck(expression="true"),
        ]
    ),
    max_size=3,
)
AGENTS = st.builds(
    lambda checks, name, tools, knowledge, retries, temperature, minutes, flag: crew_pb2.AgentSpec(
        name=name, role=name, goal=name, tools=tools, knowledge=knowledge, max_retries=retries, temperature=temperature,
        max_execution_time=None if minutes is None else Duration(seconds=minutes * 60), allow_delegation=flag,
        max_iterations=7, max_calls_per_minute=minutes or 0, max_tokens=minutes,
        reasoning_effort="high" if flag else "", planning=flag, inject_date=flag, date_format="%Y", date_time_zone=name,
        checks=checks,
        model_calls=None if minutes is None else crew_pb2.ModelCallSettings(timeout=Duration(seconds=minutes)),
    ),
    CHECKS, NAMES, TOOLS, KNOWLEDGE, st.integers(0, 100), st.none() | st.floats(0, 2), st.none() | st.integers(1, 9),
    st.booleans(),
)  # fmt: skip
APPROVALS = st.builds(
    lambda name, role, seconds, action: crew_pb2.ApprovalSpec(
        question=name, role=role, deadline=None if seconds is None else Duration(seconds=seconds), on_deadline=action
    ),
    NAMES, st.sampled_from([access_pb2.ROLE_OPERATOR, access_pb2.ROLE_EDITOR, access_pb2.ROLE_ADMIN]),
    st.none() | st.integers(1, 99), st.sampled_from(question_state_pb2.OnDeadline.values()[1:]),
)  # fmt: skip
TASKS = st.builds(
    lambda checks, name, context, tools, schema, retries, flag, approval: crew_pb2.TaskSpec(
        name=name, description=name, expected_output=name, agent=name,
        context=None if context is None else crew_pb2.TaskContext(tasks=context), tools=tools,
        output_schema=None if schema is None else struct(schema), guardrails=context or [],
        guardrail_max_retries=retries, async_execution=flag, human_approval=not flag, markdown=flag,
        approval=approval, checks=checks, condition=name if flag else "",
        on_cut_off=crew_pb2.ON_CUT_OFF_FAIL if flag else crew_pb2.ON_CUT_OFF_UNSPECIFIED,
        output_file=name if flag else "",
    ),
    CHECKS, NAMES, st.none() | st.lists(NAMES, max_size=2), TOOLS, st.none() | OBJECTS, st.integers(0, 9),
    st.booleans(), st.none() | APPROVALS,
)  # fmt: skip
CREWS = st.builds(
    lambda name, agents, tasks, process, memory, knowledge: crew_pb2.CrewSpec(
        name=name, description=name, agents=agents, tasks=tasks, process=process, model=name, manager_model=name,
        manager_agent=name, planning=True, planning_model=name, knowledge=knowledge,
        memory=crew_pb2.MemorySpec(
            enabled=memory, embedding_model=name, run_name=name, analysis=memory, name=name if memory else "",
            model=name, near_copy_similarity=0.95, read_only=memory,
            consolidation=crew_pb2.ConsolidationSpec(similarity=0.0, limit=3) if memory else None,
            recall=crew_pb2.RecallSpec(
                mode=memory_pb2.SEARCH_MODE_HYBRID, diversity=0.0, semantic_weight=0.5, recency_weight=0.0,
                recency_half_life_days=7,
            ) if memory else None,
        ),
        limits=crew_pb2.ExecutionLimits(max_cost=0.5, max_tokens=2**60) if memory else None,
        model_calls=crew_pb2.ModelCallSettings(
            first_token_timeout=Duration(seconds=1, nanos=500_000_000), tool_calling=crew_pb2.TOOL_CALLING_IN_WORDS
        ) if memory else None,
    ),
    NAMES, st.lists(AGENTS, min_size=1, max_size=2), st.lists(TASKS, min_size=1, max_size=2),
    st.sampled_from([crew_pb2.PROCESS_SEQUENTIAL, crew_pb2.PROCESS_HIERARCHICAL]), st.booleans(), KNOWLEDGE,
)  # fmt: skip


def without_empty_configs(message: crew_pb2.CrewSpec) -> crew_pb2.CrewSpec:
    tools = [tool for agent in message.agents for tool in agent.tools]
    for tool in tools + [tool for task in message.tasks for tool in task.tools]:
        if not tool.config.fields:
            tool.ClearField("config")
    return message


@settings(max_examples=50)
@given(CREWS)
def test_nothing_of_a_crew_is_lost_on_the_wire_or_in_its_document(message: crew_pb2.CrewSpec) -> None:
    spec = spec_from_proto(message)
    assert from_document(CrewSpec, to_document(spec)) == spec
    assert spec_to_proto(spec) == without_empty_configs(message)


def test_what_is_left_out_gets_the_defaults_the_wire_promises() -> None:
    message = crew_pb2.CrewSpec(
        name="c",
        agents=[crew_pb2.AgentSpec(name="a", role="r", goal="g")],
        tasks=[crew_pb2.TaskSpec(name="t", description="d", expected_output="e", agent="a")],
    )
    spec = spec_from_proto(message)
    agent, task = spec.agents[0], spec.tasks[0]
    assert (spec.process, agent.max_iterations, agent.max_retries, agent.max_calls_per_minute) == (
        "SEQUENTIAL",
        25,
        2,
        None,
    )
    assert (agent.max_execution_time, agent.temperature) == (None, None)
    assert (task.context, task.output_schema, task.guardrail_max_retries) == (None, None, 3)


def test_no_retries_and_no_context_are_not_the_same_as_none_given() -> None:
    message = crew_pb2.CrewSpec(
        name="c",
        agents=[crew_pb2.AgentSpec(name="a", max_retries=0)],
        tasks=[crew_pb2.TaskSpec(name="t", context=crew_pb2.TaskContext(), guardrail_max_retries=0)],
    )
    spec = spec_from_proto(message)
    assert (spec.agents[0].max_retries, spec.tasks[0].context, spec.tasks[0].guardrail_max_retries) == (0, (), 0)


def test_a_document_of_another_release_is_read_as_far_as_it_is_known() -> None:
    spec = CrewSpec("c", (), ())
    document = to_document(spec)
    del document["planning"]
    assert from_document(CrewSpec, document | {"of_tomorrow": [1]}) == spec


@given(JSON)
def test_json_values_come_back_as_they_were(value: object) -> None:
    assert from_value("inputs.x", to_value(value)) == value


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_json_does_not_know_are_refused_with_their_path(number: float) -> None:
    value = struct_pb2.Value()
    value.struct_value.fields["a"].list_value.values.add().number_value = number
    with pytest.raises(InvalidArgument) as caught:
        from_value("inputs.x", value)
    assert [violation.field for violation in caught.value.violations] == ["inputs.x.a[0]"]


def test_a_whole_number_that_may_have_been_rounded_is_refused_where_it_has_to_be_exact() -> None:
    value = to_value({"ids": [2**53, 2**60]})
    with pytest.raises(InvalidArgument, match="as text") as caught:
        from_value("inputs.x", value, exact=True)
    assert [violation.field for violation in caught.value.violations] == ["inputs.x.ids[1]"]
    assert from_value("inputs.x", to_value(1.5), exact=True) == 1.5


def test_whole_numbers_stay_whole_where_floating_point_is_exact() -> None:
    assert repr(from_value("x", struct_pb2.Value(number_value=3.0))) == "3"
    assert repr(from_value("x", struct_pb2.Value(number_value=2.0**60))) == "1.152921504606847e+18"


def test_a_memory_id_is_asked_for_with_what_names_a_crew() -> None:
    spec = crew_pb2.CrewSpec(
        name="brief",
        model="group/model",
        agents=[crew_pb2.AgentSpec(name="a", role="Reader"), crew_pb2.AgentSpec(name="b", role="Writer")],
        tasks=[crew_pb2.TaskSpec(name="read"), crew_pb2.TaskSpec(name="write")],
        memory=crew_pb2.MemorySpec(enabled=True, run_name="nightly"),
    )
    assert memory_id_request_to_proto(spec_from_proto(spec)) == memory_pb2.DeriveMemoryIdRequest(
        agent_roles=["Reader", "Writer"],
        task_names=["read", "write"],
        crew_name="brief",
        model="group/model",
        run_name="nightly",
    )
