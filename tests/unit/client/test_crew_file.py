"""Crew files read as people write them, and name the line of every fault."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.json_format import MessageToDict
from hypothesis import given, settings
from hypothesis import strategies as st

from coxswain.client import DocumentError, load_crew
from coxswain.client.crew_file import read_crew
from coxswain.client.documents import MAX_FILE_BYTES
from coxswain.memory.v1.record_pb2 import MemoryKind
from coxswain.orchestrator.v1.crew_pb2 import CrewSpec, KnowledgeMemory, KnowledgeSpec, Process

BRIEF = """\
name: brief
agents:
  reader:
    role: Reader of {topic}
    goal: Find what the text says
    tools:
      - word_count
      - name: search
        config: {limit: 3, deep: true}
    max_execution_time: 1m30s
  editor:
    role: Editor
    goal: Write briefly
    temperature: 0.5
tasks:
  - name: extract
    description: Read {text}
    expected_output: Five statements
    agent: reader
    guardrails: Every statement stands in the text
  - name: edit
    description: Write
    expected_output: A brief
    agent: editor
    context: [extract]
    output_schema:
      type: object
      properties: {title: {type: string}}
process: sequential
memory: true
"""


def write(directory: Path, text: str, name: str = "crew.yaml") -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def problems(directory: Path, text: str, name: str = "crew.yaml") -> list[tuple[int, str, str]]:
    with pytest.raises(DocumentError) as caught:
        load_crew(write(directory, text, name))
    return [(problem.line, problem.field, problem.description) for problem in caught.value.problems]


def as_dict(spec: CrewSpec) -> dict[str, Any]:
    return MessageToDict(spec, preserving_proto_field_name=True)


def test_short_forms_stand_for_the_whole_document(tmp_path: Path) -> None:
    assert as_dict(load_crew(write(tmp_path, BRIEF))) == {
        "name": "brief",
        "agents": [
            {
                "name": "reader",
                "role": "Reader of {topic}",
                "goal": "Find what the text says",
                "tools": [{"name": "word_count"}, {"name": "search", "config": {"limit": 3.0, "deep": True}}],
                "max_execution_time": "90s",
            },
            {"name": "editor", "role": "Editor", "goal": "Write briefly", "temperature": 0.5},
        ],
        "tasks": [
            {
                "name": "extract",
                "description": "Read {text}",
                "expected_output": "Five statements",
                "agent": "reader",
                "guardrails": ["Every statement stands in the text"],
            },
            {
                "name": "edit",
                "description": "Write",
                "expected_output": "A brief",
                "agent": "editor",
                "context": {"tasks": ["extract"]},
                "output_schema": {"type": "object", "properties": {"title": {"type": "string"}}},
            },
        ],
        "process": "PROCESS_SEQUENTIAL",
        "memory": {"enabled": True},
    }


KNOWLEDGE = """\
knowledge:
  tower:
    content: The tower is white.
  manual:
    memory: {kind: document}
  rules:
    memory: {memory_id: handbook, scope: /rules}
"""


def test_knowledge_is_a_text_or_a_memory(tmp_path: Path) -> None:
    tower, manual, rules = load_crew(write(tmp_path, BRIEF + KNOWLEDGE)).knowledge
    assert tower == KnowledgeSpec(name="tower", content="The tower is white.")
    assert manual == KnowledgeSpec(name="manual", memory=KnowledgeMemory(kind=MemoryKind.MEMORY_KIND_DOCUMENT))
    assert rules == KnowledgeSpec(name="rules", memory=KnowledgeMemory(memory_id="handbook", scope="/rules"))


def test_two_sources_of_one_knowledge_are_refused_with_the_line_of_the_second(tmp_path: Path) -> None:
    text = BRIEF + KNOWLEDGE.replace("is white.", "is white.\n    memory: {kind: document}")
    told = "give either content or memory, not both"
    assert problems(tmp_path, text) == [(34, "knowledge[0].memory", told)]


def test_json_says_the_same_as_yaml(tmp_path: Path) -> None:
    document = json.dumps(yaml.safe_load(BRIEF), indent="\t")
    assert load_crew(write(tmp_path, document, "crew.json")) == load_crew(write(tmp_path, BRIEF))


def test_the_documents_own_spelling_is_read_too(tmp_path: Path) -> None:
    spec = load_crew(write(tmp_path, BRIEF))
    plain = json.dumps(MessageToDict(spec))
    assert load_crew(write(tmp_path, plain, "camel.json")) == spec
    assert load_crew(write(tmp_path, plain, "camel.yaml")) == spec


def test_all_faults_come_at_once_each_with_its_line_and_field(tmp_path: Path) -> None:
    text = BRIEF.replace("goal: Find", "gaol: Find").replace("temperature: 0.5", "temperature: hot")
    text = text.replace("process: sequential", "process: parallel").replace("1m30s", "soon")
    assert problems(tmp_path, text) == [
        (5, "agents[0].gaol", "unknown field; did you mean 'goal'?"),
        (10, "agents[0].max_execution_time", "expected a duration such as 90, 30s, 5m or 1h30m, not soon"),
        (14, "agents[1].temperature", "expected a number, not text"),
        (29, "process", "expected one of sequential, hierarchical, not 'parallel'"),
    ]


def test_rules_of_the_protos_are_checked_before_anything_is_sent(tmp_path: Path) -> None:
    text = BRIEF.replace("temperature: 0.5", "temperature: 3").replace(
        "expected_output: A brief", "expected_output: ''"
    )
    assert problems(tmp_path, text) == [
        (14, "agents[1].temperature", "must be greater than or equal to 0 and less than or equal to 2"),
        (23, "tasks[1].expected_output", "must not be empty"),
    ]


@pytest.mark.parametrize("key", ["inputs", "apiVersion", "kind", "spec"])
def test_what_belongs_elsewhere_is_refused_with_where_it_belongs(tmp_path: Path, key: str) -> None:
    [(line, field, description)] = problems(tmp_path, f"{key}: {{}}\n{BRIEF}")
    assert (line, field) == (1, key)
    assert "unknown" not in description


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 0, "empty"),
        ("# only a comment\n", 0, "empty"),
        ("- a\n- b\n", 1, "a crew is a mapping"),
        ("name: a\nname: b\n", 2, "appears twice"),
        ("name: [a\n", 2, "not valid YAML"),
        ("name: a\n---\nname: b\n", 2, "not valid YAML"),
        ("name: !!python/object:os.system {}\n", 1, "expected text"),
        ("name: !!python/name:os.system ''\n", 1, "not supported"),
        ("name: .nan\n", 1, "finite"),
        ("name: \x07\n", 1, "not allowed in YAML"),
        ('name: "\\ud83d"\n', 1, "surrogate"),
        ("name: " + "[" * 3000, 0, "nested"),
        ("name: " + "[" * 100 + "]" * 100, 1, "nested"),
        ("name: a\n? [x]\n: b\n", 2, "key must be text"),
        ("a: &a {b: *a}\n", 1, "nested"),
        ("<<: 3\nname: a\n", 1, "<<"),
    ],
)
def test_a_document_that_is_none_is_refused_with_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    found = problems(tmp_path, text)
    assert found[0][0] == line
    assert says in found[0][2]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ('{"name": "a", "name": "b"}', "appears twice"),
        ('{"name": NaN}', "not a JSON number"),
        ('{"name": 1e999}', "too large"),
        ('{"name": ' + "9" * 5000 + "}", "not valid JSON"),
        ('{"name": "\\ud83d"}', "surrogate"),
        ("[" * 100_000, "nested"),
        ("[" * 100 + "]" * 100, "nested"),
        ('{"name": 7}', "expected text, not a number"),
    ],
)
def test_json_that_is_none_is_refused(tmp_path: Path, text: str, says: str) -> None:
    assert says in problems(tmp_path, text, "crew.json")[0][2]


def test_a_pair_of_escapes_is_one_character(tmp_path: Path) -> None:
    path = write(tmp_path, BRIEF.replace("role: Editor", 'role: "\\ud83d\\ude00"'))
    assert load_crew(path).agents[1].role == "\N{GRINNING FACE}"


def test_a_file_in_another_encoding_is_refused_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "crew.yaml"
    path.write_bytes(b"name: a\nrole: caf\xe9\n")
    with pytest.raises(DocumentError, match="UTF-8") as caught:
        load_crew(path)
    assert caught.value.problems[0].line == 2


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "crew.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + BRIEF.encode())
    assert load_crew(path).name == "brief"


def test_a_file_that_is_too_big_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "crew.yaml"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(DocumentError, match="the limit is"):
        load_crew(path)


def test_aliases_cannot_grow_without_bound(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "aliases expanded" in problems(tmp_path, "\n".join(lines))[0][2]


def test_anchors_and_merges_save_repetition(tmp_path: Path) -> None:
    text = BRIEF.replace("  reader:\n", "  reader: &base\n").replace("  editor:\n", "  editor:\n    <<: *base\n")
    spec = load_crew(write(tmp_path, text))
    assert [tool.name for tool in spec.agents[1].tools] == ["word_count", "search"]
    assert spec.agents[1].role == "Editor"


def test_values_that_only_look_like_numbers_or_truth_are_text_where_text_is_wanted(tmp_path: Path) -> None:
    spec = load_crew(write(tmp_path, BRIEF.replace("name: brief", "name: 007").replace("role: Editor", "role: no")))
    assert (spec.name, spec.agents[1].role) == ("007", "no")


def test_a_name_that_differs_from_its_key_is_refused(tmp_path: Path) -> None:
    text = BRIEF.replace("  editor:\n", "  editor:\n    name: writer\n")
    assert problems(tmp_path, text)[0][:2] == (12, "agents.editor.name")


@pytest.mark.parametrize(
    ("field", "line"),
    [("spec.tasks[1].agent", 24), ("tasks[1].context.tasks[0]", 25), ("spec.tasks[1].nothing", 21), ("spec.other", 0)],
)
def test_a_fault_the_server_finds_is_placed_in_the_file(tmp_path: Path, field: str, line: int) -> None:
    assert read_crew(write(tmp_path, BRIEF)).line_of(field) == line


TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="\ufeff\ufffe\uffff"), min_size=1
)
NAME = st.text("abcdefghijklmnop_", min_size=1, max_size=12)


@st.composite
def specs(draw: st.DrawFn) -> CrewSpec:
    spec = CrewSpec(name=draw(NAME), description=draw(TEXT), process=Process.PROCESS_HIERARCHICAL)
    for name in draw(st.lists(NAME, min_size=1, max_size=3, unique=True)):
        agent = spec.agents.add(name=name, role=draw(TEXT), goal=draw(TEXT), allow_delegation=draw(st.booleans()))
        agent.max_iterations = draw(st.integers(0, 1000))
        agent.max_execution_time.FromMilliseconds(draw(st.integers(1, 10**9)))
    for name in draw(st.lists(NAME, min_size=1, max_size=3, unique=True)):
        task = spec.tasks.add(name=name, description=draw(TEXT), expected_output=draw(TEXT))
        task.output_schema.update({"type": draw(TEXT), "n": draw(st.floats(allow_nan=False, allow_infinity=False))})
        task.context.tasks.extend(draw(st.lists(NAME, max_size=2, unique=True)))
    spec.knowledge.add(name="text", content=draw(TEXT))
    memory = spec.knowledge.add(name="memory").memory
    memory.memory_id, memory.scope = draw(st.text(max_size=0) | NAME), draw(st.text(max_size=0) | NAME)
    memory.kind = draw(st.sampled_from(MemoryKind.values()))
    return spec


@settings(deadline=None)
@given(specs())
def test_a_stored_crew_written_as_yaml_or_json_reads_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, spec: CrewSpec
) -> None:
    directory = tmp_path_factory.mktemp("crew")
    plain = as_dict(spec)
    assert load_crew(write(directory, json.dumps(plain), "crew.json")) == spec
    assert load_crew(write(directory, yaml.safe_dump(plain, allow_unicode=True))) == spec


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"#%@`,\n \t0\\?~<"), max_size=60))
def test_no_text_makes_the_reader_fail_in_another_way(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    for name in ("crew.yaml", "crew.json"):
        path = write(tmp_path_factory.mktemp("crew"), text, name)
        with contextlib.suppress(DocumentError):
            load_crew(path)
