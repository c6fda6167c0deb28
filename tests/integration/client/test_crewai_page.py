"""docs/from-crewai.md tells the truth, and faults of imported projects are placed in their files."""

import re
import shlex
from pathlib import Path

import pytest

from coxswain.client import load_crew
from coxswain.memory.v1.memory_pb2 import SEARCH_MODE_HYBRID
from tests.integration.client.command_line import Run, rows
from tests.support.crewai_projects import AGENTS, CODE, CREW, TASKS, WRITER, line_of, write_project

PAGE = (Path(__file__).parents[3] / "docs" / "from-crewai.md").read_text(encoding="utf-8")
ABLE = AGENTS.replace("  role:", "  llm: openai/gpt-4.1\n  role:")
_BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def words(text: str) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in text.splitlines() if line.strip()]


async def test_the_worked_example_works(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands, expected = "", ""
    for language, file, block in _BLOCK.findall(PAGE):
        if file:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(block, encoding="utf-8")
        elif language == "sh":
            commands += block
        elif language == "text":
            expected += block
    (tmp_path / "pyproject.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(commands)
    assert program == "coxswain"
    result = await run(*arguments)
    assert result.exit_code == 0, result.stderr
    assert words(result.stderr) == words(expected)
    [[crew]] = rows(await run("crews", "--json"))
    assert crew["spec"]["name"] == "letters"
    assert [one["name"] for one in crew["spec"]["agents"]] == ["writer", "editor"]
    assert [(one["name"], one["agent"]) for one in crew["spec"]["tasks"]] == [("draft", "writer"), ("polish", "editor")]
    tool = await run("apply", ".", "--tool", "StagehandTool=calculator")
    # It arrives at the server, which says that this model has no use for tools.
    assert "agents[0].tools" in tool.stderr
    assert "StagehandTool" not in tool.stderr


def test_the_settings_of_a_memory_are_those_of_a_crew_file(tmp_path: Path) -> None:
    [settings] = [block for language, file, block in _BLOCK.findall(PAGE) if language == "yaml" and not file]
    brief = (Path(__file__).parents[3] / "examples" / "brief" / "crew.yaml").read_text(encoding="utf-8")
    assert "memory: true\n" in brief
    (tmp_path / "crew.yaml").write_text(brief.replace("memory: true\n", settings), encoding="utf-8")
    memory = load_crew(tmp_path / "crew.yaml").memory
    assert (memory.near_copy_similarity, memory.recall.mode, memory.recall.diversity) == (0.95, SEARCH_MODE_HYBRID, 0.3)
    assert memory.consolidation.similarity == 0.85


@pytest.mark.parametrize("check", [[], ["--check"]])
async def test_faults_the_server_finds_are_placed_in_the_files(run: Run, tmp_path: Path, check: list[str]) -> None:
    agents = AGENTS.replace("  backstory: Old\n", "  backstory: Old\n  llm: no/such\n")
    directory = write_project(
        tmp_path,
        ('config["editor"]', 'config["editor"],\n            tools=[Odd()],\n            llm="none/such"'),
        agents=agents,
    )
    result = await run("apply", str(directory), "--tool", "Odd=odd_tool", *check)
    assert result.exit_code == (1 if check else 2)
    told = words(result.stdout + result.stderr)
    [model] = [line for line in told if "agents[0].model" in " ".join(line)]
    assert model[:2] == ["src/notes/config/agents.yaml", "5"]
    [other] = [line for line in told if "agents[1].model" in " ".join(line)]
    assert other[:2] == ["src/notes/crew.py", str(line_of(directory, "llm="))]
    [tool] = [line for line in told if "agents[1].tools" in " ".join(line)]
    assert tool[:2] == ["src/notes/crew.py", str(line_of(directory, "tools="))]


async def test_a_project_without_agents_names_the_task_and_the_mend(run: Run, tmp_path: Path) -> None:
    result = await run("apply", str(write_project(tmp_path, (", agent=self.editor()", ""))))
    assert result.exit_code == 2
    assert "src/notes/config/tasks.yaml" in result.stderr
    assert "agent: NAME" in result.stderr


async def test_the_process_of_the_project_can_be_overridden(run: Run, tmp_path: Path) -> None:
    given = 'process=Process.hierarchical, manager_llm="openai/gpt-4.1")'
    directory = str(write_project(tmp_path, (CREW, f"{CREW[:-1]}, {given}"), agents=ABLE))
    for arguments, process in (((), "PROCESS_HIERARCHICAL"), (("--process", "sequential"), "PROCESS_SEQUENTIAL")):
        result = await run("apply", directory, *arguments)
        assert result.exit_code == 0, result.stderr
        [[crew]] = rows(await run("crews", "--json"))
        assert crew["spec"]["process"] == process


async def test_one_of_several_classes_is_chosen(run: Run, tmp_path: Path) -> None:
    second = CODE[CODE.index("@CrewBase") :].replace("class Notes", "class Songs").replace("def draft", "def sketch")
    directory = str(write_project(tmp_path, code=f"{CODE}\n\n{second}"))
    refused = await run("apply", directory)
    assert refused.exit_code == 2
    assert "--crew-class Songs" in refused.stderr
    assert (await run("apply", directory, "--crew-class", "Songs")).exit_code == 0


async def test_the_schema_of_a_class_is_one_the_server_takes(run: Run, tmp_path: Path) -> None:
    classes = (
        "class Kind(str, Enum):\n    A = 'a'\n\n\nclass Part(BaseModel):\n    kind: Kind = Kind.A\n"
        "    parts: List['Part'] = []\n\n\n"
        "class Note(BaseModel):\n    one: Optional[Part] = None\n    t: Tuple[int, str]\n"
    )
    code = CODE.replace("@CrewBase", f"{classes}\n\n@CrewBase").replace(
        ", agent=self.w", ", output_pydantic=Note, agent=self.w"
    )
    result = await run("apply", str(write_project(tmp_path, code=code, agents=ABLE)))
    assert result.exit_code == 0, result.stderr
    assert "not taken over" not in result.stderr


async def test_wrong_options_are_said(run: Run, tmp_path: Path) -> None:
    directory = str(write_project(tmp_path, (WRITER, WRITER), tasks=TASKS))
    assert "write CLASS=NAME" in (await run("apply", directory, "--tool", "Search")).stderr
    assert "give one crew file or directory" in (await run("apply")).stderr
    assert "give one crew file or directory" in (await run("apply", directory, "-f", directory)).stderr


async def test_tools_of_crewai_become_those_of_the_server_and_results_its_files(run: Run, tmp_path: Path) -> None:
    tools = "SerperDevTool(n_results=3), ScrapeWebsiteTool(), FileWriterTool(), FileReadTool(), DirectoryReadTool()"
    directory = write_project(
        tmp_path,
        (WRITER, f"{WRITER[:-1]}, tools=[{tools}])"),
        (", agent=self.editor()", ', output_file="./out/{topic}.md", agent=self.editor()'),
        agents=ABLE,
    )
    result = await run("apply", str(directory))
    assert result.exit_code == 0, result.stderr
    assert "became web_search" in result.stderr
    [[crew]] = rows(await run("crews", "--json"))
    given = [tool["name"] for tool in crew["spec"]["agents"][0]["tools"]]
    assert given == ["web_search", "web_fetch", "file_write", "file_read", "file_list"]
    assert crew["spec"]["tasks"][1]["output_file"] == "out/{topic}.md"
