"""Projects as `crewai create crew` makes them today: a crew in JSON with comments, an agent in a file of its own."""

from pathlib import Path

import pytest

from coxswain.client.crewai_project import load_crewai_project
from coxswain.client.documents import DocumentError, read_document
from coxswain.orchestrator.v1 import crew_pb2 as pb

CREW = """{
  // Display name for this crew
  "name": "Letter desk",
  "agents": ["writer", "editor"],
  "tasks": [
    {
      "name": "draft", // an identifier
      "description": "Write to {customer}, see https://example.com/a",
      "expected_output": "A letter",
      /* several
         lines */
      "guardrail": "It is polite.",
      "agent": "writer"
    },
    {
      "name": "polish",
      "description": "Polish it.",
      "expected_output": "A letter",
      "context": ["draft"],
      "output_file": "out/letter.md",
      "output_json": {"python": "desk.models.Letter"},
      "agent": "editor",
    },
  ],
  "process": "sequential",
  "verbose": true,
  "memory": true,
  "planning_llm": {"model": "planner", "base_url": "http://localhost:1"},
  "knowledge_sources": [],
  "before_kickoff_callbacks": [{"python": "desk.hooks.before"}],
  "inputs": {"customer": "Ann"}
}
"""
WRITER = """{
  "role": "Writer",
  "goal": "Write to {customer}",
  "backstory": "You like letters. \\ud83c\\udf89",
  "llm": {"model": "big", "temperature": 0.25, "provider": "ollama"},
\t"tools": ["SerperDevTool", "custom:stamp", "custom:seal", "calculator", "PDFSearchTool"],
  "settings": {
    "verbose": false,
    "allow_delegation": false,
    // "max_iter": 25,
    "max_iter": 7
  }
}
"""
EDITOR = '{"role": "Editor", "goal": "Polish", "backstory": "", "llm": "small", "step_callback": {"python": "a.b"}}'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    agents = tmp_path / "agents"
    agents.mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "crew.jsonc").write_text(CREW)
    (agents / "writer.jsonc").write_text(WRITER)
    (agents / "editor.json").write_text(EDITOR)
    return tmp_path


def test_the_crew_is_read_with_its_agents_and_all_that_is_left_out_is_noted(project: Path) -> None:
    crew = load_crewai_project(project, tools={"seal": "office/seal"})
    spec = crew.spec
    assert (spec.name, spec.process, spec.memory.enabled) == ("Letter desk", pb.PROCESS_SEQUENTIAL, True)
    assert (spec.planning_model, [agent.name for agent in spec.agents]) == ("planner", ["writer", "editor"])
    writer, editor = spec.agents
    assert (writer.role, writer.goal, writer.backstory) == ("Writer", "Write to {customer}", "You like letters. 🎉")
    assert (writer.model, writer.temperature, writer.max_iterations) == ("big", 0.25, 7)
    assert [tool.name for tool in writer.tools] == ["web_search", "office/seal", "calculator"]
    assert (editor.model, editor.allow_delegation) == ("small", False)
    draft, polish = spec.tasks
    assert (draft.name, draft.agent, list(draft.guardrails)) == ("draft", "writer", ["It is polite."])
    assert draft.description == "Write to {customer}, see https://example.com/a"
    assert (polish.name, list(polish.context.tasks), polish.output_file) == ("polish", ["draft"], "out/letter.md")
    assert not polish.HasField("output_schema")

    noted = {(note.field, note.file, note.line) for note in crew.notes}
    assert noted == {
        ("SerperDevTool", "agents/writer.jsonc", 6),
        ("stamp", "agents/writer.jsonc", 6),
        ("PDFSearchTool", "agents/writer.jsonc", 6),
        ("agents.writer.llm.provider", "agents/writer.jsonc", 5),
        ("agents.editor.step_callback", "agents/editor.json", 0),
        ("tasks.polish.output_json", "crew.jsonc", 21),
        ("crew.planning_llm.base_url", "crew.jsonc", 28),
        ("crew.before_kickoff_callbacks", "crew.jsonc", 30),
        ("crew.inputs", "crew.jsonc", 31),
    }


def test_settings_of_a_memory_are_read(project: Path) -> None:
    memory = '{"llm": {"model": "m", "base_url": "b"}, "recency_weight": 0.5, "storage": "lancedb", "read_only": null}'
    (project / "crew.jsonc").write_text(CREW.replace('"memory": true', f'"memory": {memory}'))
    crew = load_crewai_project(project)
    spec = crew.spec.memory
    assert (spec.enabled, spec.model, spec.analysis, spec.recall.recency_weight) == (True, "m", True, 0.5)
    told = {note.field for note in crew.notes if note.field.startswith("crew.memory")}
    assert told == {"crew.memory.llm.base_url", "crew.memory.storage"}


def test_name_and_process_that_are_given_go_before_those_of_the_file(project: Path) -> None:
    (project / "crew.jsonc").write_text(CREW.replace('"process": "sequential"', '"manager_llm": "boss"'))
    spec = load_crewai_project(project, name="desk", process="hierarchical").spec
    assert (spec.name, spec.process, spec.manager_model) == ("desk", pb.PROCESS_HIERARCHICAL, "boss")


def test_a_managing_agent_is_read_although_the_crew_does_not_list_it(project: Path) -> None:
    (project / "agents" / "boss.json").write_text('{"role": "Boss", "goal": "Lead", "backstory": "b", "llm": "m"}')
    text = CREW.replace('"process": "sequential"', '"process": "hierarchical", "manager_agent": "boss"')
    (project / "crew.jsonc").write_text(text)
    spec = load_crewai_project(project).spec
    assert (spec.manager_agent, [agent.name for agent in spec.agents]) == ("boss", ["writer", "editor", "boss"])


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        (
            '"agents": ["writer", "editor"]',
            '"agents": ["writer", "editr"]',
            4,
            "no agents/editr.jsonc beside crew.jsonc",
        ),
        ('"agents": ["writer", "editor"]', '"agents": ["../crew", "editor"]', 4, "no agents/../crew.jsonc"),
        ('"name": "polish"', '"name": "draft"', 15, "the name of another task"),
        ('"agent": "editor",', "", 15, 'write "agent": "NAME" here; the agents are writer, editor'),
        ('"tasks": [', '"tasks": [ 5,', 5, "expected an object, not a number"),
        ('"Polish it."', '"Polish it.', 18, ""),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_line(
    project: Path, old: str, new: str, line: int, message: str
) -> None:
    assert old in CREW
    (project / "crew.jsonc").write_text(CREW.replace(old, new))
    with pytest.raises(DocumentError) as refused:
        load_crewai_project(project)
    shown = str(refused.value)
    assert f"crew.jsonc:{line}" in shown
    assert message in shown


def test_code_goes_before_a_description_in_json(project: Path) -> None:
    config = project / "config"
    config.mkdir()
    (config / "agents.yaml").write_text("reader: {role: Reader, goal: Read, backstory: b, llm: m}")
    (config / "tasks.yaml").write_text("read: {description: Read., expected_output: Words, agent: reader}")
    assert [agent.name for agent in load_crewai_project(project).spec.agents] == ["reader"]


def test_json_with_comments_keeps_every_character_and_line(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonc"
    said = r'"// no comment /* nor this */ \"#\" \/ \u2028 \ud83c\udf89' + '\u2028"'
    file.write_text(f'{{"a": {said},\n/* x\ny */\t"b": [1, -2.5, true, null,], // c\n"c#": {{}}}}')
    node = read_document(file)
    assert node.plain() == {
        "a": '// no comment /* nor this */ "#" / \u2028 🎉\u2028',
        "b": [1, -2.5, True, None],
        "c#": {},
    }
    assert isinstance(node.value, dict)
    assert [part.line for part in node.value.values()] == [1, 3, 4]
