"""CrewAI projects come over whole, and what does not is said."""

from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict

from coxswain.client import DocumentError, load_crewai_project
from coxswain.client.crewai_project import ImportedCrew
from coxswain.orchestrator.v1.crew_pb2 import Process

AGENTS = """\
researcher:
  role: >
    {topic} Senior Researcher
  goal: >
    Uncover developments in {topic}
  backstory: >
    You know where to look.
  llm: openai/gpt-4o
  tools: [search]
  max_iter: 7
  max_rpm: 10
  max_execution_time: 120
  max_retry_limit: 1
  allow_delegation: true
  verbose: true
analyst:
  role: Analyst
  goal: Write
  backstory: Careful
  llm:
    model: openai/gpt-4o-mini
    temperature: 0.2
    base_url: https://example.com
  reasoning: true
"""

TASKS = """\
research:
  description: >
    Research {topic}
  expected_output: Ten points
  agent: researcher
  async_execution: true
report:
  description: Report
  expected_output: A report
  agent: analyst
  context:
    - research
  output_json:
    type: object
    properties:
      title: {type: string}
  guardrail: The report names its sources
  guardrail_max_retries: 2
  human_input: true
  markdown: true
  output_file: report.md
  shape: round
"""


def project(directory: Path, agents: str = AGENTS, tasks: str = TASKS, config: str = "src/news/config") -> Path:
    config_directory = directory / config
    config_directory.mkdir(parents=True, exist_ok=True)
    (config_directory / "agents.yaml").write_text(agents)
    (config_directory / "tasks.yaml").write_text(tasks)
    return directory


def notes(imported: ImportedCrew) -> dict[str, int]:
    return {note.field: note.line for note in imported.notes}


def test_a_project_becomes_a_crew(tmp_path: Path) -> None:
    imported = load_crewai_project(project(tmp_path))
    assert MessageToDict(imported.spec, preserving_proto_field_name=True) == {
        "name": "news",
        "process": "PROCESS_SEQUENTIAL",
        "agents": [
            {
                "name": "researcher",
                "role": "{topic} Senior Researcher",
                "goal": "Uncover developments in {topic}",
                "backstory": "You know where to look.",
                "model": "openai/gpt-4o",
                "tools": [{"name": "search"}],
                "max_iterations": 7,
                "max_calls_per_minute": 10,
                "max_execution_time": "120s",
                "max_retries": 1,
                "allow_delegation": True,
            },
            {
                "name": "analyst",
                "role": "Analyst",
                "goal": "Write",
                "backstory": "Careful",
                "model": "openai/gpt-4o-mini",
                "temperature": 0.2,
                "planning": True,
            },
        ],
        "tasks": [
            {
                "name": "research",
                "description": "Research {topic}",
                "expected_output": "Ten points",
                "agent": "researcher",
                "async_execution": True,
            },
            {
                "name": "report",
                "description": "Report",
                "expected_output": "A report",
                "agent": "analyst",
                "context": {"tasks": ["research"]},
                "output_schema": {"type": "object", "properties": {"title": {"type": "string"}}},
                "guardrails": ["The report names its sources"],
                "guardrail_max_retries": 2,
                "human_approval": True,
                "markdown": True,
                "output_file": "report.md",
            },
        ],
    }


def test_everything_left_out_is_named_with_its_line(tmp_path: Path) -> None:
    imported = load_crewai_project(project(tmp_path))
    assert notes(imported) == {
        "agents.researcher.verbose": 15,
        "agents.analyst.llm.base_url": 23,
        "tasks.report.shape": 22,
    }
    assert all(note.description for note in imported.notes)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("report.md", "report.md"),
        ("./output/report.md", "output/report.md"),
        ("/output//report.md", "output/report.md"),
        ("output/old/../{topic}.md", "output/{topic}.md"),
        (r"output\report.md", "output/report.md"),
        ("../report.md", ""),
        ("~/report.md", ""),
        ("$HOME/report.md", ""),
        ("C:/report.md", ""),
        ("./", ""),
    ],
)
def test_a_file_that_a_result_is_written_to_becomes_one_of_the_execution(tmp_path: Path, path: str, name: str) -> None:
    given = TASKS.replace("output_file: report.md", f"create_directory: true\n  output_file: '{path}'")
    imported = load_crewai_project(project(tmp_path, tasks=given))
    assert imported.spec.tasks[1].output_file == name
    noted = [note for note in imported.notes if note.field == "tasks.report.output_file"]
    assert [note.line for note in noted] == ([] if name else [22])
    assert all("relative path" in note.description for note in noted)


@pytest.mark.parametrize("config", [".", "config", "src/news/config"])
def test_the_files_are_found_where_projects_keep_them(tmp_path: Path, config: str) -> None:
    directory = tmp_path / "news"
    directory.mkdir()
    assert load_crewai_project(project(directory, config=config)).spec.name == "news"


def test_numbers_and_switches_in_quotation_marks_are_what_they_say(tmp_path: Path) -> None:
    agents = AGENTS.replace("max_iter: 7", "max_iter: '7'").replace("max_rpm: 10", "max_rpm: 'ten'")
    agents = agents.replace("delegation: true", "delegation: 'True'").replace("temperature: 0.2", "temperature: '0.2'")
    agents = agents.replace("goal: Write", "goal: '7'").replace("reasoning: true", "reasoning: 'off'")
    with pytest.raises(DocumentError, match="max_calls_per_minute"):
        load_crewai_project(project(tmp_path, agents=agents))
    imported = load_crewai_project(project(tmp_path, agents=agents.replace("'ten'", "'10'")))
    researcher, analyst = imported.spec.agents
    assert (researcher.max_iterations, researcher.max_calls_per_minute, researcher.allow_delegation) == (7, 10, True)
    assert (analyst.goal, analyst.temperature, analyst.planning) == ("7", 0.2, False)


def test_name_and_process_can_be_chosen(tmp_path: Path) -> None:
    spec = load_crewai_project(project(tmp_path), name="daily", process="hierarchical").spec
    assert (spec.name, spec.process) == ("daily", Process.PROCESS_HIERARCHICAL)


@pytest.mark.parametrize("key", ["output_json", "output_pydantic"])
def test_a_class_that_cannot_be_imported_is_named(tmp_path: Path, key: str) -> None:
    tasks = f"research:\n  description: x\n  expected_output: y\n  agent: researcher\n  {key}: Report\n"
    assert notes(load_crewai_project(project(tmp_path, tasks=tasks)))[f"tasks.research.{key}"] == 5


def test_a_guardrail_that_is_a_function_is_named_and_not_taken_for_words(tmp_path: Path) -> None:
    tasks = TASKS.replace("The report names its sources", "checks.has_sources")
    imported = load_crewai_project(project(tmp_path, tasks=tasks))
    assert "tasks.report.guardrail" in notes(imported)
    assert not imported.spec.tasks[1].guardrails


def test_a_project_that_makes_no_crew_says_why(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"tasks\[0\].expected_output"):
        load_crewai_project(project(tmp_path, tasks="research: {description: x, agent: researcher}"))


def test_an_agent_that_is_no_mapping_is_named(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"agents\.researcher"):
        load_crewai_project(project(tmp_path, agents="researcher: me"))


def test_a_directory_without_a_project_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"agents\.yaml"):
        load_crewai_project(tmp_path)
