"""Validation of crews by themselves: every fault, its path, and nothing else."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import FieldViolation
from services.orchestrator.domain.crew import (
    AgentSpec,
    ApprovalSpec,
    ConsolidationSpec,
    CrewSpec,
    KnowledgeMemory,
    KnowledgeSpec,
    MemoryKind,
    MemorySpec,
    OutputCheck,
    OutputLength,
    Process,
    TaskSpec,
    ToolSpec,
)
from services.orchestrator.usecases.check_faults import check_faults
from services.orchestrator.usecases.crew_faults import crew_faults, crew_warnings, in_document_order
from services.orchestrator.usecases.schema_warnings import _TOO_MANY, schema_warnings

READER = AgentSpec("reader", "Reader", "Read")
EDITOR = AgentSpec("editor", "Editor", "Edit")


def task(name: str, agent: str = "reader", **fields: Any) -> TaskSpec:
    return TaskSpec(name, f"Do {name}", "Text", agent, **fields)


def crew(*tasks: TaskSpec, agents: tuple[AgentSpec, ...] = (READER, EDITOR), **fields: Any) -> CrewSpec:
    return CrewSpec("brief", agents, tasks or (task("read"),), **fields)


def fields(spec: CrewSpec, max_bytes: int = 1_000_000) -> list[str]:
    return [fault.field for fault in crew_faults(spec, {}, max_bytes)]


def faults(spec: CrewSpec) -> dict[str, str]:
    return {fault.field: fault.description for fault in crew_faults(spec, {}, 1_000_000)}


def test_a_sound_crew_has_no_faults() -> None:
    spec = crew(
        task("read", tools=(ToolSpec("calculator", {"decimal_places": 2}),)),
        task("edit", "editor", context=("read",), output_schema={"type": "object"}, guardrails=("Be brief",)),
    )
    assert faults(spec) == {}


def test_all_faults_come_at_once_in_the_order_of_the_document() -> None:
    spec = crew(
        task("a", "readr", tools=(ToolSpec("calculater"), ToolSpec("calculator", {"decimal_places": -1, "x": 1}))),
        task("a", "editor", context=("a", "b", "zzz")),
        agents=(READER, EDITOR, replace(EDITOR, max_execution_time=0.5)),
    )
    found = crew_faults(spec, {}, 1_000_000)
    assert [fault.field for fault in found] == [
        "spec.agents[2].name",
        "spec.agents[2].max_execution_time",
        "spec.tasks[0].agent",
        "spec.tasks[0].tools[0].name",
        "spec.tasks[0].tools[1].config",
        "spec.tasks[0].tools[1].config.decimal_places",
        "spec.tasks[1].name",
        "spec.tasks[1].context.tasks[0]",
        "spec.tasks[1].context.tasks[1]",
        "spec.tasks[1].context.tasks[2]",
    ]


def test_an_unknown_agent_or_tool_comes_with_the_near_names() -> None:
    found = faults(crew(task("read", "readr", tools=(ToolSpec("calculater"),))))
    assert 'did you mean "reader"' in found["spec.tasks[0].agent"]
    assert 'did you mean "calculator"' in found["spec.tasks[0].tools[0].name"]


def test_a_sequential_task_needs_an_agent_and_a_hierarchical_one_does_not() -> None:
    assert fields(crew(task("read", ""))) == ["spec.tasks[0].agent"]
    assert fields(crew(task("read", "", guardrails=("Be brief",)), process=Process.HIERARCHICAL)) == []


def test_context_names_earlier_tasks_only() -> None:
    found = faults(crew(task("a", context=("b",)), task("b", context=("b",)), task("c", context=("nobody",))))
    assert "comes after this one" in found["spec.tasks[0].context.tasks[0]"]
    assert "its own context" in found["spec.tasks[1].context.tasks[0]"]
    assert 'no task "nobody"' in found["spec.tasks[2].context.tasks[0]"]


def test_a_cycle_is_named_step_by_step() -> None:
    found = faults(crew(task("a", context=("c",)), task("b", context=("a",)), task("c", context=("b",))))
    assert found == {"spec.tasks[0].context.tasks[0]": 'closes a cycle: "a" -> "c" -> "b" -> "a"'}


@given(st.data())
def test_context_is_accepted_exactly_when_every_reference_goes_back(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 6))
    names = [f"t{index}" for index in range(count)]
    contexts = [data.draw(st.lists(st.sampled_from(names), unique=True, max_size=count)) for _ in names]
    spec = crew(*(task(name, context=tuple(context)) for name, context in zip(names, contexts, strict=True)))
    wrong = [
        f"spec.tasks[{index}].context.tasks[{position}]"
        for index, context in enumerate(contexts)
        for position, name in enumerate(context)
        if names.index(name) >= index
    ]
    found = crew_faults(spec, {}, 1_000_000)
    assert [fault.field for fault in found] == wrong
    for fault in found:
        if "cycle" in fault.description:
            steps = fault.description.removeprefix("closes a cycle: ").replace('"', "").split(" -> ")
            assert steps[0] == steps[-1]
            assert all(after in contexts[names.index(step)] for step, after in pairwise(steps))


@pytest.mark.parametrize(
    ("asynchronous", "fault"),
    [
        ("s", False),
        ("a", False),
        ("as", False),
        ("sa", False),
        ("aas", False),
        ("asa", False),
        ("aa", True),
        ("saa", True),
    ],
)
def test_a_crew_ends_with_at_most_one_asynchronous_task(asynchronous: str, fault: bool) -> None:
    spec = crew(*(task(f"t{i}", async_execution=kind == "a") for i, kind in enumerate(asynchronous)))
    assert fields(spec) == ([f"spec.tasks[{len(asynchronous) - 1}].async_execution"] if fault else [])


def test_an_asynchronous_task_cannot_wait_for_one_that_runs_beside_it() -> None:
    beside = crew(
        task("a", async_execution=True), task("b", async_execution=True, context=("a",)), task("c", context=("a", "b"))
    )
    apart = crew(task("a", async_execution=True), task("s"), task("b", async_execution=True, context=("a",)), task("c"))
    assert fields(beside) == ["spec.tasks[1].context.tasks[0]"]
    assert fields(apart) == []


def test_a_manager_is_an_agent_of_the_crew_without_tools_and_tasks() -> None:
    tooled = replace(EDITOR, tools=(ToolSpec("calculator"),))
    hierarchical: dict[str, Any] = {"process": Process.HIERARCHICAL, "manager_agent": "editor"}
    assert fields(crew(**hierarchical)) == []
    assert fields(crew(process=Process.HIERARCHICAL, manager_agent="boss")) == ["spec.manager_agent"]
    assert fields(crew(task("a", "editor"), **hierarchical)) == ["spec.tasks[0].agent"]
    assert fields(crew(agents=(READER, tooled), **hierarchical)) == ["spec.agents[1].tools"]
    assert fields(crew(task("a", ""), agents=(EDITOR,), **hierarchical)) == ["spec.manager_agent"]


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "objct"}, "not a valid JSON schema"),
        ({"type": "array"}, "must describe an object"),
        ({}, "must describe an object"),
    ],
)
def test_an_output_schema_is_a_schema_of_an_object(schema: dict[str, Any], told: str) -> None:
    found = faults(crew(task("read", output_schema=schema)))
    assert told in found["spec.tasks[0].output_schema"]


def test_texts_that_say_nothing_are_refused() -> None:
    spec = crew(
        task("read", guardrails=(" ",)),
        agents=(replace(READER, role=" \n"),),
        knowledge=(KnowledgeSpec("k", "x"), KnowledgeSpec("k", "y")),
    )
    assert fields(spec) == [
        "spec.agents[0].role",
        "spec.tasks[0].guardrails[0]",
        "spec.knowledge[1].name",
    ]


def test_a_crew_larger_than_allowed_is_refused() -> None:
    spec = crew(knowledge=(KnowledgeSpec("k", "é" * 1000),))
    assert fields(spec, max_bytes=2000) == ["spec"]
    assert fields(spec, max_bytes=20_000) == []


@pytest.mark.parametrize(
    ("memory", "field", "told"),
    [
        (KnowledgeMemory(""), "memory_id", "set kind to DOCUMENT"),
        (KnowledgeMemory("0190aaaa-bbbb-7ccc-8ddd-0123456789ab"), "memory_id", "use the crew's memory_id"),
        (KnowledgeMemory(" handbook"), "memory_id", "spaces at its ends"),
        (KnowledgeMemory("hand\nbook"), "memory_id", "control characters"),
        (KnowledgeMemory("handbook", MemoryKind.DOCUMENT), "memory_id", "leave it empty"),
        (KnowledgeMemory("handbook", MemoryKind.ENTITY, "/a"), "scope", "ENTITY records have no scopes"),
        (KnowledgeMemory("handbook", document_ids=("a.pdf",)), "document_ids", "set kind DOCUMENT"),
    ],
)
def test_a_memory_that_cannot_be_looked_up_is_refused_by_its_field(
    memory: KnowledgeMemory, field: str, told: str
) -> None:
    source = KnowledgeSpec("k", memory=memory)
    found = faults(crew(agents=(replace(READER, knowledge=(source,)),), knowledge=(source,)))
    assert list(found) == [f"spec.agents[0].knowledge[0].memory.{field}", f"spec.knowledge[0].memory.{field}"]
    assert told in found[f"spec.knowledge[0].memory.{field}"]


def test_memories_that_can_be_looked_up_are_no_faults() -> None:
    memories = [KnowledgeMemory("handbook", scope="/a"), KnowledgeMemory(kind=MemoryKind.DOCUMENT)]
    spec = crew(knowledge=tuple(KnowledgeSpec(f"k{index}", memory=memory) for index, memory in enumerate(memories)))
    assert fields(spec) == []


def test_settings_of_an_approval_without_one_are_refused() -> None:
    # A result that everybody thinks is approved must not go on unseen.
    asked = task("read", approval=ApprovalSpec(deadline=60))
    assert fields(crew(asked)) == ["spec.tasks[0].approval"]
    assert fields(crew(replace(asked, human_approval=True))) == []


def test_what_has_no_effect_is_warned_of() -> None:
    spec = crew(
        agents=(replace(READER, allow_delegation=True),),
        manager_model="m",
        manager_agent="reader",
        planning_model="p",
        memory=MemorySpec(analysis=True),
    )
    assert [warning.field for warning in crew_warnings(spec)] == [
        "spec.agents[0].allow_delegation",
        "spec.manager_model",
        "spec.manager_agent",
        "spec.planning_model",
        "spec.memory",
    ]
    assert [warning.field for warning in crew_warnings(crew())] == ["spec.agents[1]"]


@pytest.mark.parametrize(
    ("memory", "warned"),
    [
        (MemorySpec(model="m"), ["model"]),
        (MemorySpec(model="m", analysis=True, near_copy_similarity=0.95), []),
        (MemorySpec(model="m", consolidation=ConsolidationSpec()), []),
        (
            MemorySpec(model="m", consolidation=ConsolidationSpec(), near_copy_similarity=0.9, read_only=True),
            ["model", "near_copy_similarity", "consolidation"],
        ),
        (MemorySpec(near_copy_similarity=0.5), ["near_copy_similarity"]),
    ],
)
def test_settings_of_a_memory_without_effect_are_warned_of(memory: MemorySpec, warned: list[str]) -> None:
    spec = crew(task("a"), agents=(READER,), memory=replace(memory, enabled=True))
    assert [warning.field for warning in crew_warnings(spec)] == [f"spec.memory.{field}" for field in warned]


NAMED: dict[str, Any] = {"properties": {"minItems": {"type": "integer"}}}


def test_faults_of_conditions_that_name_no_task_are_few() -> None:
    condition = " || ".join(f"tasks.none{number}.skipped" for number in range(40))
    spec = crew(*(task(f"task {number}", condition=condition) for number in range(10)))
    found = check_faults(spec)
    assert 0 < len(found) <= 200
    assert sum("did you mean" in fault.description or "there is" in fault.description for fault in found) <= 20


@pytest.mark.parametrize(
    ("schema", "warned"),
    [
        ({**NAMED, "additionalProperties": False}, []),
        ({"properties": {"held": {"type": "array", "minItems": 2, "items": {"not": {}}}}, "minProperties": 1}, []),
        ({"additionalProperties": {"type": "integer"}, "patternProperties": {"^x": {}}}, []),
        ({**NAMED, "oneOf": [NAMED, {"required": ["minItems"]}]}, []),
        ({"oneOf": [NAMED, {"properties": {"x": {}}}]}, []),
        (
            {"properties": {"held": {**NAMED, "additionalProperties": True}}},
            ["properties.held: additionalProperties has"],
        ),
        ({**NAMED, "patternProperties": {"^x": {}}}, ["patternProperties has no effect: "]),
        ({"unevaluatedProperties": {}}, ["unevaluatedProperties is not checked"]),
        ({"dependencies": {"a": ["b"]}}, ["dependencies is not checked"]),
        ({"properties": {"code": {"pattern": "(?=a)"}}}, ["properties.code: pattern (?=a) is not checked"]),
        ({"patternProperties": {"(?=a)": {}}}, ["patternProperties (?=a) is not checked"]),
        (
            {**NAMED, "if": NAMED, "then": {"properties": {"x": {}, "minItems": {}}}},
            ['what only then names is left out of the result: "x";'],
        ),
        ({**NAMED, "anyOf": [{"properties": {"x": {}}}]}, ["what only anyOf names"]),
        ({"properties": {"held": {**NAMED, "anyOf": [{"properties": {"x": {}}}]}}}, []),
        (
            {"properties": {"held": {**NAMED, "allOf": [{"if": {}, "else": {"properties": {"x": {}}}}]}}},
            ["properties.held: what only else names"],
        ),
    ],
)
def test_what_an_output_schema_says_in_vain_is_warned_of(schema: dict[str, Any], warned: list[str]) -> None:
    warnings = crew_warnings(crew(replace(task("read"), output_schema={"type": "object", **schema})))
    found = [warning.description for warning in warnings if warning.field == "spec.tasks[0].output_schema"]
    assert len(found) == len(warned)
    assert all(text.startswith(begin) for text, begin in zip(found, warned, strict=True))


@pytest.mark.parametrize(("depth", "warned"), [(1, False), (4, True)])
def test_alternatives_beside_which_properties_are_lost_are_warned_of(depth: int, warned: bool) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"p": schema}, "anyOf": [{"properties": {"q": {}}}] * 4}
    assert [*schema_warnings(crew(replace(task("read"), output_schema=named(schema, 1))))] == (
        [FieldViolation("spec.tasks[0].output_schema", _TOO_MANY)] if warned else []
    )


def test_many_properties_without_alternatives_are_no_loss() -> None:
    assert not [*schema_warnings(crew(replace(task("read"), output_schema=named({"type": "string"}, 6000))))]


def named(schema: dict[str, Any], count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{index}": schema for index in range(count)}}


def test_an_output_schema_that_refers_to_another_document_is_a_fault() -> None:
    schema = {"type": "object", "properties": {"held": {"$ref": "https://example.com/s"}}}
    assert (
        "outside of itself" in faults(crew(replace(task("read"), output_schema=schema)))["spec.tasks[0].output_schema"]
    )


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, 'properties.a.$ref: there is no "#/$defs/none"'),
        ({"title": "x", "not": {"$ref": "#/title"}}, 'not.$ref: "#/title" is not a JSON schema'),
        ({"allOf": [{}], "not": {"$ref": "#/allOf/x"}}, 'not.$ref: there is no "#/allOf/x"'),
        ({"minimum": 1, "not": {"$ref": "#/minimum/x"}}, 'not.$ref: there is no "#/minimum/x"'),
        ({"not": {"$ref": "#name"}}, 'not.$ref: there is no "#name"'),
        ({"x": {"type": "objekt"}, "not": {"$ref": "#/x"}}, 'not.$ref: "#/x" is not a valid JSON schema: type: '),
        ({"x": {"$ref": "#/y"}, "not": {"$ref": "#/x"}}, 'not.$ref.$ref: there is no "#/y"'),
        ({"$ref": "#"}, '$ref: "#" leads back to itself'),
        ({"allOf": [{"$ref": "#"}]}, 'allOf.0.$ref: "#" leads back to itself'),
        ({"anyOf": [{"$ref": "#"}, {}]}, 'anyOf.0.$ref: "#" leads back to itself'),
        (
            {"$defs": {"a": {"oneOf": [{}, {"$ref": "#/$defs/b"}]}, "b": {"not": {"$ref": "#/$defs/a"}}}},
            '$defs.a.oneOf.1.$ref: "#/$defs/b" leads back to itself',
        ),
        (
            {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
            '$defs.a.$ref: "#/$defs/b" leads back to itself',
        ),
    ],
)
def test_a_reference_of_an_output_schema_leads_to_a_schema(schema: dict[str, Any], told: str) -> None:
    spec = crew(replace(task("read"), output_schema={"type": "object", **schema}))
    assert faults(spec)["spec.tasks[0].output_schema"].startswith(told)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"next": {"$ref": "#"}}},
        {"properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}}},
        {"anyOf": [{"type": "object"}, {"$ref": "#"}]},
        {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}, {"$ref": "#/$defs/b"}]}, "b": {}}},
        {"properties": {"a": {"$ref": "#/$defs/a~1b"}, "b": {"$ref": "#/$defs/a~1b"}}, "$defs": {"a/b": True}},
        {"properties": {"a": {"$ref": "#here"}}, "$defs": {"a": {"$anchor": "here"}}},
        {"properties": {"$ref": {"const": {"$ref": "#/none"}}}},
        {"$id": "urn:s", "properties": {"a": {"$id": "urn:a", "$ref": "#/$defs/b", "$defs": {"b": {}}}}},
    ],
)
def test_references_inside_of_an_output_schema_are_no_fault(schema: dict[str, Any]) -> None:
    spec = crew(replace(task("read"), output_schema={"type": "object", **schema}))
    assert "spec.tasks[0].output_schema" not in faults(spec)


@pytest.mark.parametrize(
    "wrong",
    [
        {"properties": []},
        {"properties": None},
        {"anyOf": 5},
        {"anyOf": None},
        {"$defs": "x"},
        {"items": [{"minItems": 1}]},
        {"properties": {"a": {"allOf": True}}},
    ],
)
def test_what_is_no_schema_is_a_fault_and_nothing_to_warn_of(wrong: dict[str, Any]) -> None:
    spec = crew(replace(task("read"), output_schema={"type": "object", **wrong}))
    assert faults(spec)["spec.tasks[0].output_schema"].startswith("is not a valid JSON schema: ")
    assert "spec.tasks[0].output_schema" not in {warning.field for warning in crew_warnings(spec)}


def test_warnings_of_a_schema_are_few_and_short() -> None:
    leaves = {f"a{index}": {"pattern": "(?=a)"} for index in range(500)}
    deep = {"type": "object", "properties": {"n" * 50_000: {"type": "object", "properties": leaves}}}
    said = [warning.description for warning in crew_warnings(crew(replace(task("read"), output_schema=deep)))]
    assert 0 < len(said) < 30
    assert max(map(len, said)) < 500


def test_faults_of_tasks_that_all_refer_to_each_other_are_few_and_short() -> None:
    names = [f"task {index} {'x' * 100}" for index in range(64)]
    ring = [task(name, context=tuple(names)) for name in names]
    found = crew_faults(crew(*ring), {}, 10_000_000)
    assert 0 < len(found) <= 200
    round_ = [task(name, context=(names[index - 63],)) for index, name in enumerate(names)]
    (fault,) = (f for f in crew_faults(crew(*round_), {}, 1_000_000) if f.field == "spec.tasks[0].context.tasks[0]")
    assert '-> 55 others -> "' in fault.description


def test_two_agents_that_delegation_cannot_tell_apart_are_warned_of() -> None:
    twin = replace(EDITOR, role=' "reader"')
    spec = crew(task("a"), task("b", "editor"), agents=(replace(READER, allow_delegation=True), twin))
    assert [warning.field for warning in crew_warnings(spec)] == ["spec.agents[1].role"]


PATHS = [
    "spec",
    "spec.name",
    "spec.agents[2].role",
    "spec.agents[10]",
    "spec.tasks[0].agent",
    "spec.memory",
    "spec.memory.analysis",
]


@given(st.permutations(PATHS))
def test_faults_are_sorted_by_their_place_in_the_document(paths: list[str]) -> None:
    assert [fault.field for fault in in_document_order(FieldViolation(path, "") for path in paths)] == PATHS


def test_a_date_has_a_time_zone_that_exists_and_a_format_that_says_something() -> None:
    dates: list[dict[str, Any]] = [
        {"date_time_zone": "Europe/Zurich", "date_format": "%d.%m.%Y"},
        {"date_time_zone": "Europe/Zurch"},
        {"date_format": "today, 100%%"},
        {"date_format": "%Y-%Q"},
        {"date_format": "%Y %"},
    ]
    agents = [replace(READER, inject_date=True, **dated) for dated in dates]
    found = faults(crew(agents=(*agents, EDITOR)))
    assert "Europe/Zurich" in found["spec.agents[1].date_time_zone"]
    assert [field for field in found if field.endswith("date_format")] == [
        f"spec.agents[{index}].date_format" for index in (2, 3, 4)
    ]
    warnings = crew_warnings(crew(agents=(replace(READER, date_format="%Y"),)))
    assert [warning.field for warning in warnings] == ["spec.agents[0].inject_date"]


@pytest.mark.parametrize(
    ("tasks", "found"),
    [
        ([task("a"), task("b", condition="tasks.a.text != '' && inputs.n > 1")], {}),
        ([task("a", condition="inputs.n > 1")], {}),
        ([task("a", condition="tasks.")], {"spec.tasks[0].condition": "not valid CEL"}),
        ([task("a", condition="tasks.b.skipped"), task("b")], {"spec.tasks[0].condition": "no task ends before"}),
        ([task("draft"), task("b", condition="tasks.drft.skipped")], {"spec.tasks[1].condition": 'mean "draft"'}),
        ([task("a"), task("b", condition="tasks[inputs.x].skipped")], {"spec.tasks[1].condition": "my task"}),
        ([task("a", condition="output.text == ''")], {"spec.tasks[0].condition": "names output"}),
        (
            [task("a", async_execution=True), task("b", condition="tasks.a.skipped", async_execution=True), task("c")],
            {"spec.tasks[1].condition": "no task ends before"},
        ),
        ([task("a", checks=(OutputCheck(matches="("),))], {"spec.tasks[0].checks[0].matches": "RE2"}),
        ([task("a", checks=(OutputCheck(words=OutputLength()),))], {"spec.tasks[0].checks[0].words": "min or max"}),
    ],
)
def test_conditions_and_checks_are_read_before_they_are_needed(tasks: list[TaskSpec], found: dict[str, str]) -> None:
    told = {fault.field: fault.description for fault in check_faults(crew(*tasks))}
    assert told.keys() == found.keys()
    assert all(words in told[field] for field, words in found.items())


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "\x7f", "a\x85"])
def test_names_have_no_control_characters(name: str) -> None:
    spec = replace(crew(task(name), agents=(READER, replace(EDITOR, name=name))), name=name)
    assert [field for field in fields(spec) if field.endswith("name")] == [
        "spec.name",
        "spec.agents[1].name",
        "spec.tasks[0].name",
    ]
