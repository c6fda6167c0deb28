"""What the class of a CrewAI project says arrives in the crew, or is named with its line. Nothing of it is run."""

from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from coxswain.client import DocumentError, ImportedCrew, load_crewai_project
from coxswain.client.crewai_project.tool_classes import COUNTERPARTS, Counterpart
from coxswain.client.documents import Problem
from coxswain.orchestrator.v1.crew_pb2 import AgentSpec, Process, TaskSpec
from services.orchestrator.tool_catalogue import TOOLS
from tests.support.crewai_projects import AGENTS, CODE, CREW, DRAFT, POLISH, TASKS, WRITER, line_of, write_project

CREW_PY = "src/notes/crew.py"


def agent(imported: ImportedCrew, name: str) -> AgentSpec:
    return next(one for one in imported.spec.agents if one.name == name)


def task(imported: ImportedCrew, name: str) -> TaskSpec:
    return next(one for one in imported.spec.tasks if one.name == name)


def note(imported: ImportedCrew, field: str) -> Problem:
    [found] = [one for one in imported.notes if one.field == field]
    return found


def test_a_project_arrives_without_notes_when_everything_has_a_counterpart(tmp_path: Path) -> None:
    imported = load_crewai_project(write_project(tmp_path))
    assert imported.notes == ()
    assert imported.spec.name == "notes"
    assert [(one.name, one.role) for one in imported.spec.agents] == [("writer", "Writer"), ("editor", "Editor")]
    assert [(one.name, one.agent) for one in imported.spec.tasks] == [("draft", "writer"), ("polish", "editor")]
    assert imported.spec.process == Process.PROCESS_SEQUENTIAL


def test_agents_are_found_by_their_methods(tmp_path: Path) -> None:
    code = CODE.replace("def writer", "def note_writer_agent").replace("self.writer()", "self.note_writer_agent()")
    code = code.replace("def editor", "def note_editor_agent").replace("self.editor()", "self.note_editor_agent()")
    imported = load_crewai_project(write_project(tmp_path, code=code))
    assert [(one.name, one.role) for one in imported.spec.agents] == [
        ("note_writer_agent", "Writer"),
        ("note_editor_agent", "Editor"),
    ]
    assert [one.agent for one in imported.spec.tasks] == ["note_writer_agent", "note_editor_agent"]


def test_two_methods_with_one_entry_are_two_agents(tmp_path: Path) -> None:
    imported = load_crewai_project(write_project(tmp_path, ('agents_config["editor"]', 'agents_config["writer"]')))
    assert [(one.name, one.role) for one in imported.spec.agents] == [("writer", "Writer"), ("editor", "Writer")]
    assert "not part of the crew" in note(imported, "agents.editor").description


def test_an_agent_in_the_yaml_file_means_a_method(tmp_path: Path) -> None:
    tasks = TASKS.replace("A draft\n", "A draft\n  agent: second\n").replace("A text\n", "A text\n  agent: editor\n")
    code = (
        CODE.replace("def writer", "def second")
        .replace(", agent=self.writer()", "")
        .replace(", agent=self.editor()", "")
    )
    imported = load_crewai_project(write_project(tmp_path, code=code, tasks=tasks))
    assert [one.agent for one in imported.spec.tasks] == ["second", "editor"]


def test_an_agent_in_the_yaml_file_that_is_no_method_means_the_one_of_that_entry(tmp_path: Path) -> None:
    tasks = TASKS.replace("A draft\n", "A draft\n  agent: writer\n")
    code = CODE.replace("def writer", "def second").replace(", agent=self.writer()", "")
    imported = load_crewai_project(write_project(tmp_path, code=code, tasks=tasks))
    assert task(imported, "draft").agent == "second"


def test_the_order_of_the_methods_is_that_of_the_tasks(tmp_path: Path) -> None:
    code = CODE.replace("def draft", "def swap").replace("def polish", "def draft").replace("def swap", "def polish")
    code = code.replace('tasks_config["draft"]', 'tasks_config["X"]').replace(
        'tasks_config["polish"]', 'tasks_config["draft"]'
    )
    imported = load_crewai_project(write_project(tmp_path, code=code.replace('"X"', '"polish"')))
    assert [one.name for one in imported.spec.tasks] == ["polish", "draft"]


def test_the_list_of_tasks_in_the_crew_goes_before_the_order_of_the_methods(tmp_path: Path) -> None:
    imported = load_crewai_project(write_project(tmp_path, ("tasks=self.tasks", "tasks=[self.polish(), self.draft()]")))
    assert [one.name for one in imported.spec.tasks] == ["polish", "draft"]


def test_a_task_that_the_crew_does_not_list_is_left_out_and_named(tmp_path: Path) -> None:
    directory = write_project(tmp_path, ("tasks=self.tasks", "tasks=[self.polish()]"), ("agents=self.agents, ", ""))
    imported = load_crewai_project(directory)
    assert [one.name for one in imported.spec.tasks] == ["polish"]
    assert note(imported, "tasks.draft").line == line_of(directory, "def draft")


def test_an_agent_that_is_written_out_needs_no_file(tmp_path: Path) -> None:
    written = 'Agent(role="Writer of letters", goal="Write to {name}", backstory="b", llm="openai/gpt-4o", max_iter=7)'
    imported = load_crewai_project(write_project(tmp_path, (WRITER, written)))
    found = agent(imported, "writer")
    assert (found.role, found.goal, found.backstory) == ("Writer of letters", "Write to {name}", "b")
    assert (found.model, found.max_iterations) == ("openai/gpt-4o", 7)


def test_code_goes_before_the_files(tmp_path: Path) -> None:
    agents = "writer: {role: Writer, goal: Write, max_iter: 3, llm: a/b}\neditor: {role: Editor, goal: Edit}\n"
    directory = write_project(tmp_path, (WRITER, WRITER[:-1] + ', max_iter=9, llm="c/d", goal=None)'), agents=agents)
    found = agent(load_crewai_project(directory), "writer")
    assert (found.max_iterations, found.model, found.goal) == (9, "c/d", "Write")


def test_settings_of_agents(tmp_path: Path) -> None:
    given = (
        ", allow_delegation=True, max_rpm=10, max_execution_time=2 * 60, max_retry_limit=0, function_calling_llm='a/b')"
    )
    found = agent(load_crewai_project(write_project(tmp_path, (WRITER, WRITER[:-1] + given))), "writer")
    assert (found.allow_delegation, found.max_calls_per_minute, found.max_execution_time.seconds) == (True, 10, 120)
    assert (found.max_retries, found.function_calling_model) == (0, "a/b")


def test_settings_of_tasks(tmp_path: Path) -> None:
    given = ", context=[self.draft()], async_execution=True, human_input=True, markdown=True, guardrail='Short')"
    imported = load_crewai_project(write_project(tmp_path, (POLISH, POLISH[:-1] + given)))
    found = task(imported, "polish")
    assert list(found.context.tasks) == ["draft"]
    assert (found.async_execution, found.human_approval, found.markdown) == (True, True, True)
    assert list(found.guardrails) == ["Short"]
    assert imported.notes == ()


def test_an_empty_context_is_an_explicit_one(tmp_path: Path) -> None:
    imported = load_crewai_project(write_project(tmp_path, (POLISH, POLISH[:-1] + ", context=[])")))
    assert task(imported, "polish").HasField("context")
    assert not task(imported, "draft").HasField("context")
    assert list(task(imported, "polish").context.tasks) == []


@pytest.mark.parametrize(
    ("llm", "before"),
    [
        ('"a/b"', ""),
        ('LLM(model="a/b")', ""),
        ('LLM("a/b")', ""),
        ("MODEL", 'MODEL = "a/b"\n'),
        ("MODEL", 'MODEL = LLM(model="a/b")\n'),
        ("make()", 'def make():\n    return LLM(model="a/b")\n'),
        ("self.model", ""),
        ("self.own", ""),
        ("self.build()", ""),
        ("self.marked()", ""),
        ("texts.MODEL", "from notes import texts\n"),
        ("MODEL", "from .texts import MODEL\n"),
        ("named", "from notes.texts import MODEL as named\n"),
    ],
)
def test_a_model_is_found_wherever_the_code_names_it(tmp_path: Path, llm: str, before: str) -> None:
    members = """
    model = "a/b"

    def __init__(self):
        self.own = LLM(model="a/b")

    def build(self):
        return self.own

    @llm
    def marked(self):
        return LLM(model="a/b")

    @agent
    def writer"""
    code = CODE.replace(WRITER, WRITER[:-1] + f", llm={llm})").replace("@CrewBase", before + "\n\n@CrewBase")
    code = code.replace("\n    @agent\n    def writer", members)
    files = {"src/notes/texts.py": 'MODEL = "a/b"\n', "src/notes/__init__.py": ""}
    imported = load_crewai_project(write_project(tmp_path, code=code, files=files))
    assert agent(imported, "writer").model == "a/b"
    assert imported.notes == ()


def test_a_model_with_settings(tmp_path: Path) -> None:
    directory = write_project(
        tmp_path, (WRITER, WRITER[:-1] + ',\n        llm=LLM(model="a/b", temperature=0.25, api_key=KEY))')
    )
    imported = load_crewai_project(directory)
    assert (agent(imported, "writer").model, agent(imported, "writer").temperature) == ("a/b", 0.25)
    assert note(imported, "agents.writer.llm.api_key").line == line_of(directory, "llm=LLM")


def test_a_model_method_that_the_file_names_is_read(tmp_path: Path) -> None:
    code = CODE.replace(
        "    @agent\n    def writer",
        "    @llm\n    def big(self):\n        return LLM('a/b')\n\n    @agent\n    def writer",
    )
    agents = "writer: {role: Writer, goal: Write, llm: big}\neditor: {role: Editor, goal: Edit, llm: c/d}\n"
    imported = load_crewai_project(write_project(tmp_path, code=code, agents=agents))
    assert [one.model for one in imported.spec.agents] == ["a/b", "c/d"]


def test_what_a_model_is_made_with_becomes_the_agents(tmp_path: Path) -> None:
    llm = 'LLM(model="a/b", max_completion_tokens=500, reasoning_effort="low", timeout=3)'
    directory = write_project(tmp_path, (WRITER, f"{WRITER[:-1]},\n        llm={llm})"))
    imported = load_crewai_project(directory)
    agent = imported.spec.agents[0]
    assert (agent.model, agent.max_tokens, agent.reasoning_effort) == ("a/b", 500, "low")
    assert [note.field for note in imported.notes] == ["agents.writer.llm.timeout"]


@pytest.mark.parametrize(
    "llm", ["ChatOpenAI(model='gpt-4o')", "os.getenv('MODEL')", "build(3)", "MODEL if x else None"]
)
def test_a_model_that_the_code_does_not_name_is_noted_and_the_files_kept(tmp_path: Path, llm: str) -> None:
    agents = "writer: {role: Writer, goal: Write, llm: a/b}\neditor: {role: Editor, goal: Edit}\n"
    directory = write_project(tmp_path, (WRITER, WRITER[:-1] + f",\n        llm={llm})"), agents=agents)
    imported = load_crewai_project(directory)
    assert agent(imported, "writer").model == "a/b"
    found = note(imported, "agents.writer.llm")
    assert (found.file, found.line) == (CREW_PY, line_of(directory, "llm="))
    assert "openai/gpt-4o" in found.description
    assert "what agents.yaml says is kept" in found.description


def test_tools_are_named_once_for_each_class_with_their_lines(tmp_path: Path) -> None:
    code = CODE.replace("@CrewBase", "from crewai_tools import SerperDevTool, ScrapeWebsiteTool\n\n\n@CrewBase")
    code = code.replace(WRITER, WRITER[:-1] + ",\n            tools=[SerperDevTool(), ScrapeWebsiteTool()])")
    code = code.replace(DRAFT, DRAFT[:-1] + ",\n            tools=[\n                SerperDevTool(n=3)])")
    directory = write_project(tmp_path, code=code)
    imported = load_crewai_project(directory)
    line = line_of(directory, "ScrapeWebsiteTool()]")
    assert [(one.field, one.file, one.line) for one in imported.notes] == [
        ("SerperDevTool", CREW_PY, line),
        ("ScrapeWebsiteTool", CREW_PY, line),
    ]
    assert f"also in line {line_of(directory, 'SerperDevTool(n=3)')}" in imported.notes[0].description
    assert [note.description.partition(":")[0] for note in imported.notes] == ["became web_search", "became web_fetch"]
    assert [one.name for one in agent(imported, "writer").tools] == ["web_search", "web_fetch"]
    assert [one.name for one in imported.spec.tasks[0].tools] == ["web_search"]


@pytest.mark.parametrize(
    ("given", "names", "noted"),
    [
        ("FileWriterTool()", ["file_write"], {"FileWriterTool": "files of the execution"}),
        ("FileReadTool()", ["file_read"], {"FileReadTool": "files of the execution"}),
        ("DirectoryReadTool()", ["file_list"], {"DirectoryReadTool": "files of the execution"}),
        ("FileReadTool(file_path='a.md')", [], {"FileReadTool": "under knowledge"}),
        ("DirectoryReadTool('.')", [], {"DirectoryReadTool": "under knowledge"}),
        ("SerperDevTool(), TavilySearchTool(n=3)", ["web_search"], {"SerperDevTool": "web", "TavilySearchTool": "web"}),
        ("WebsiteSearchTool('https://example.com')", [], {"WebsiteSearchTool": "document_search"}),
        ("RagTool()", [], {"RagTool": "coxswain memory document save"}),
        ("MCPServerAdapter({}).tools", [], {"MCPServerAdapter": "--tool MCPServerAdapter='SOURCE/*'"}),
        ("*MCPServerAdapter({}).tools", [], {"MCPServerAdapter": "coxswain tool source create"}),
        ("*self.get_mcp_tools()", [], {"get_mcp_tools": "coxswain tool source create"}),
        ("StagehandTool()", [], {"StagehandTool": "coxswain tool list"}),
        ("Own()", [], {"Own": "ToolProvider"}),
        ("mine", [], {"mine": "SOURCE/TOOL"}),
        ("SerperDevTool(), Own()", ["web_search"], {"SerperDevTool": "web", "Own": "ToolProvider"}),
    ],
)
def test_classes_of_tools_have_counterparts_or_are_noted_with_what_to_do(
    tmp_path: Path, given: str, names: list[str], noted: dict[str, str]
) -> None:
    own = "class Own(BaseTool):\n    pass\n\n\n@tool\ndef mine(x):\n    return x\n\n\n@CrewBase"
    code = CODE.replace("@CrewBase", own).replace(WRITER, f"{WRITER[:-1]},\n            tools=[{given}])")
    imported = load_crewai_project(write_project(tmp_path, code=code))
    assert [one.name for one in agent(imported, "writer").tools] == names
    found = {one.field: one.description for one in imported.notes}
    assert found.keys() == noted.keys()
    for field, words in noted.items():
        assert words in found[field]


def test_what_is_given_for_a_class_of_tools_stands_for_it_once_and_is_noted_where_there_is_none(tmp_path: Path) -> None:
    given = "*MCPServerAdapter({}).tools, *self.get_mcp_tools(), SerperDevTool()"
    code = CODE.replace(WRITER, f"{WRITER[:-1]},\n            tools=[{given}])")
    tools = {"MCPServerAdapter": "billing/*", "get_mcp_tools": "billing/*", "SerperTool": "search"}
    imported = load_crewai_project(write_project(tmp_path, code=code), tools=tools)
    assert [one.name for one in agent(imported, "writer").tools] == ["billing/*", "web_search"]
    assert "has such a tool" in note(imported, "--tool SerperTool").description


@pytest.mark.parametrize("counterpart", COUNTERPARTS.values(), ids=lambda one: one.name)
def test_counterparts_are_tools_of_the_server_that_need_no_settings(counterpart: Counterpart) -> None:
    assert Draft202012Validator(TOOLS[counterpart.name].config_schema).is_valid({})


def test_a_class_of_the_project_that_is_called_like_one_of_crewai_is_its_own(tmp_path: Path) -> None:
    code = CODE.replace("@CrewBase", "class FileReadTool(BaseTool):\n    pass\n\n\n@CrewBase")
    code = code.replace(WRITER, f"{WRITER[:-1]}, tools=[FileReadTool()])")
    imported = load_crewai_project(write_project(tmp_path, code=code))
    assert not agent(imported, "writer").tools
    assert "ToolProvider" in note(imported, "FileReadTool").description


@pytest.mark.parametrize(
    "tools",
    [
        "TOOLS",
        "[search]",
        "[self.search]",
        "[self.make()]",
        "[*TOOLS]",
        "TOOLS + []",
        "self.all_tools",
        "[self.found()]",
    ],
)
def test_tools_are_found_behind_names(tmp_path: Path, tools: str) -> None:
    code = CODE.replace("@CrewBase", "search = SerperDevTool()\nTOOLS = [search]\n\n\n@CrewBase")
    members = """
    search = SerperDevTool()
    all_tools = [SerperDevTool()]

    def make(self):
        return SerperDevTool()

    @tool
    def found(self):
        return SerperDevTool()

    @agent
    def writer"""
    code = code.replace("\n    @agent\n    def writer", members).replace(WRITER, WRITER[:-1] + f", tools={tools})")
    imported = load_crewai_project(write_project(tmp_path, code=code))
    assert [one.field for one in imported.notes] == ["SerperDevTool"]
    given = load_crewai_project(tmp_path, tools={"SerperDevTool": "search"})
    assert given.notes == ()
    assert [one.name for one in agent(given, "writer").tools] == ["search"]


def test_a_hierarchical_crew(tmp_path: Path) -> None:
    given = (
        'process=Process.hierarchical, manager_llm="a/b", planning_llm=LLM(model="c/d"), manager_agent=self.editor())'
    )
    directory = write_project(tmp_path, (CREW, f"{CREW[:-1]}, {given}"))
    spec = load_crewai_project(directory).spec
    assert (spec.process, spec.manager_model, spec.planning_model) == (Process.PROCESS_HIERARCHICAL, "a/b", "c/d")
    assert spec.manager_agent == "editor"
    assert load_crewai_project(directory, process="sequential").spec.process == Process.PROCESS_SEQUENTIAL


@pytest.mark.parametrize(
    "chief",
    ["self.chief()", 'Agent(config=self.agents_config["chief"])', "chief", "self.boss"],
    ids=["method without a mark", "in place", "variable", "attribute"],
)
def test_a_manager_that_is_none_of_the_agents(tmp_path: Path, chief: str) -> None:
    made = 'Agent(config=self.agents_config["chief"], max_iter=7)'
    code = CODE.replace(CREW, f"{CREW[:-1]}, process=Process.hierarchical, manager_agent={chief})")
    code = code.replace("    @crew\n", f"    def chief(self) -> Agent:\n        return {made}\n\n    @crew\n")
    code = code.replace("        return Crew", f"        chief = {made}\n        return Crew")
    code = code.replace("    @agent\n", f"    def __init__(self):\n        self.boss = {made}\n\n    @agent\n", 1)
    agents = f"{AGENTS}chief:\n  role: Chief\n  goal: Lead\n  backstory: Long\n"
    imported = load_crewai_project(write_project(tmp_path, code=code, agents=agents))
    assert imported.notes == ()
    assert [one.name for one in imported.spec.agents] == ["writer", "editor", "manager"]
    assert (imported.spec.manager_agent, agent(imported, "manager").role) == ("manager", "Chief")


def test_of_several_crews_of_a_class_the_one_of_that_name_is_taken(tmp_path: Path) -> None:
    quick = "Crew(agents=self.agents, tasks=[self.draft()])"
    code = f"{CODE}\n    @crew\n    def quick(self) -> Crew:\n        return {quick}\n"
    directory = write_project(tmp_path, code=code)
    imported = load_crewai_project(directory)
    assert [one.name for one in imported.spec.tasks] == ["draft", "polish"]
    [other] = imported.notes
    assert (other.field, other.line) == ("Notes.quick", line_of(directory, "def quick"))
    assert "--crew-class Notes.quick" in other.description
    chosen = load_crewai_project(directory, crew_class="Notes.quick")
    assert [one.name for one in chosen.spec.tasks] == ["draft"]
    assert "Notes.crew" in [one.field for one in chosen.notes]
    with pytest.raises(DocumentError, match="Notes has no @crew method 'slow', but crew, quick"):
        load_crewai_project(directory, crew_class="Notes.slow")


def test_comments_do_not_count(tmp_path: Path) -> None:
    directory = write_project(tmp_path, (CREW, f"{CREW[:-1]},  # process=Process.hierarchical\n        )"))
    assert load_crewai_project(directory).spec.process == Process.PROCESS_SEQUENTIAL


def test_memory_and_planning(tmp_path: Path) -> None:
    imported = load_crewai_project(write_project(tmp_path, (CREW, f"{CREW[:-1]}, memory=True, planning=True)")))
    assert (imported.spec.memory.enabled, imported.spec.planning) == (True, True)
    assert imported.notes == ()


def _memory_of(tmp_path: Path, settings: str) -> ImportedCrew:
    return load_crewai_project(write_project(tmp_path, (CREW, f"{CREW[:-1]}, memory=Memory({settings}))")))


def test_settings_of_a_memory(tmp_path: Path) -> None:
    settings = "recency_weight=0.4, semantic_weight=HALF, recency_half_life_days=7, read_only=True, storage=None"
    code = CODE.replace("\n\n@CrewBase", "\nHALF = 0.5\n\n@CrewBase", 1)
    assert code != CODE
    imported = load_crewai_project(
        write_project(tmp_path, (CREW, f"{CREW[:-1]}, memory=Memory({settings}))"), code=code)
    )
    memory = imported.spec.memory
    assert (memory.enabled, memory.read_only, memory.analysis) == (True, True, False)
    assert (memory.recall.semantic_weight, memory.recall.recency_weight) == (0.5, 0.4)
    assert (memory.recall.recency_half_life_days, memory.recall.HasField("importance_weight")) == (7, False)
    assert not memory.HasField("consolidation")
    assert imported.notes == ()


@pytest.mark.parametrize(
    ("settings", "analysis", "consolidation"),
    [
        ("consolidation_threshold=0.9, consolidation_limit=3", False, (0.9, 3)),
        ("consolidation_threshold=1.0", False, None),
        # An analysed memory is consolidated by CrewAI, unless its threshold says otherwise.
        ('llm="a/b", consolidation_threshold=1.0', True, (1.0, 0)),
        ('llm=LLM(model="a/b")', True, None),
    ],
)
def test_consolidation_of_a_memory(
    tmp_path: Path, settings: str, analysis: bool, consolidation: tuple[float, int] | None
) -> None:
    imported = _memory_of(tmp_path, settings)
    memory = imported.spec.memory
    assert (memory.enabled, memory.analysis, memory.model) == (True, analysis, "a/b" if analysis else "")
    own = memory.consolidation
    assert ((own.similarity, own.limit) if memory.HasField("consolidation") else None) == consolidation
    assert imported.notes == ()


def test_what_a_memory_has_besides_is_told_with_its_line(tmp_path: Path) -> None:
    settings = """
            llm=ChatOpenAI(),
            embedder={"provider": "openai"},
            storage=build(),
            root_scope="/acme",
            exploration_budget=2,
            recency_weight=weigh(),
        """
    imported = _memory_of(tmp_path, settings)
    assert imported.spec.memory.enabled
    assert not imported.spec.memory.analysis
    told = {note.field: note for note in imported.notes}
    names = ("llm", "embedder", "storage", "root_scope", "exploration_budget", "recency_weight")
    assert set(told) == {f"crew.memory.{name}" for name in names}
    assert "memory.embedding_model" in told["crew.memory.embedder"].description
    lines = [told[f"crew.memory.{name}"].line for name in names]
    assert lines == list(range(lines[0], lines[0] + 6))


def test_a_memory_that_is_no_plain_one_is_told(tmp_path: Path) -> None:
    imported = load_crewai_project(write_project(tmp_path, (CREW, f'{CREW[:-1]}, memory=shared.scope("/a"))')))
    [note] = imported.notes
    assert (note.field, "Memory(...)" in note.description) == ("crew.memory", True)
    assert not imported.spec.memory.enabled


def test_knowledge(tmp_path: Path) -> None:
    sources = """[
            StringKnowledgeSource(content="The lamp burns whale oil."),
            TextFileKnowledgeSource(file_paths=["tower.txt"]),
            PDFKnowledgeSource(file_paths=["lamp.pdf"]),
            TextFileKnowledgeSource(file_paths=["../../../../../etc/hostname"]),
        ]"""
    directory = write_project(
        tmp_path / "project",
        (CREW, f"{CREW[:-1]}, knowledge_sources={sources})"),
        files={"knowledge/tower.txt": "The tower is white."},
    )
    imported = load_crewai_project(directory)
    assert [(one.name, one.content) for one in imported.spec.knowledge] == [
        ("text-1", "The lamp burns whale oil."),
        ("tower.txt", "The tower is white."),
    ]
    assert [(one.field, one.line) for one in imported.notes] == [
        ("crew.knowledge_sources", line_of(directory, "lamp.pdf")),
        ("crew.knowledge_sources", line_of(directory, "hostname")),
    ]
    assert "PDFKnowledgeSource" in imported.notes[0].description
    assert "coxswain memory document save" in imported.notes[0].description
    assert "not in the project" in imported.notes[1].description


def test_what_is_python_is_noted_with_its_line(tmp_path: Path) -> None:
    directory = write_project(
        tmp_path,
        (
            DRAFT,
            DRAFT[:-1]
            + ',\n            callback=print,\n            output_file=f"{TODAY}.md",\n            guardrail=check)',
        ),
        (CREW, f"{CREW[:-1]},\n            step_callback=print,\n            embedder={{}})"),
        (
            "    @agent\n    def writer",
            "    @before_kickoff\n    def prepare(self, x):\n        return x\n\n    @agent\n    def writer",
        ),
    )
    imported = load_crewai_project(directory)
    assert {one.field: (one.file, one.line) for one in imported.notes} == {
        "Notes.prepare": (CREW_PY, line_of(directory, "def prepare")),
        "tasks.draft.callback": (CREW_PY, line_of(directory, "callback=print")),
        "tasks.draft.output_file": (CREW_PY, line_of(directory, "output_file")),
        "tasks.draft.guardrail": (CREW_PY, line_of(directory, "guardrail=")),
        "crew.step_callback": (CREW_PY, line_of(directory, "step_callback")),
        "crew.embedder": (CREW_PY, line_of(directory, "embedder")),
    }
    assert all(one.description for one in imported.notes)


def test_verbose_is_one_note_for_the_file(tmp_path: Path) -> None:
    directory = write_project(
        tmp_path, (WRITER, WRITER[:-1] + ", verbose=True)"), (CREW, f"{CREW[:-1]}, verbose=True)")
    )
    [found] = load_crewai_project(directory).notes
    assert (found.field, found.line) == ("verbose", line_of(directory, "verbose"))
    assert "not needed" in found.description


def test_entries_that_no_method_uses_are_not_part_of_the_crew(tmp_path: Path) -> None:
    agents = (
        write_project(tmp_path) / "src/notes/config/agents.yaml"
    ).read_text() + "poet: {role: Poet, goal: Rhyme}\n"
    imported = load_crewai_project(write_project(tmp_path, agents=agents))
    assert [one.name for one in imported.spec.agents] == ["writer", "editor"]
    assert (note(imported, "agents.poet").file, note(imported, "agents.poet").line) == (
        "src/notes/config/agents.yaml",
        9,
    )


def test_text_that_is_put_together_at_run_time_is_noted(tmp_path: Path) -> None:
    directory = write_project(tmp_path, (WRITER, WRITER[:-1] + ',\n            goal=f"Write {today()}")'))
    imported = load_crewai_project(directory)
    assert agent(imported, "writer").goal == "Write"
    assert note(imported, "agents.writer.goal").line == line_of(directory, "goal=f")


def test_a_needed_text_that_is_put_together_at_run_time_refuses_the_crew_and_says_so(tmp_path: Path) -> None:
    directory = write_project(tmp_path, (WRITER, 'Agent(role="R",\n            goal=today())'))
    with pytest.raises(DocumentError) as caught:
        load_crewai_project(directory)
    [problem] = caught.value.problems
    assert "must not be empty" in problem.description
    assert f"{CREW_PY}:{line_of(directory, 'goal=today')}: put together at run time" in problem.description


@pytest.mark.parametrize(
    "text",
    ['"Write " "well"', '"Write " + "well"', 'dedent("""\n    Write well\n    """)', "f'Write {HOW}'", "TEXT.strip()"],
)
def test_texts_are_read_as_far_as_they_stand_in_the_code(tmp_path: Path, text: str) -> None:
    code = CODE.replace("@CrewBase", 'HOW = "well"\nTEXT = " Write well "\n\n\n@CrewBase')
    imported = load_crewai_project(write_project(tmp_path, (WRITER, WRITER[:-1] + f", goal={text})"), code=code))
    assert agent(imported, "writer").goal == "Write well"
    assert imported.notes == ()


def test_a_task_without_agent_is_named_with_its_line_and_the_mend(tmp_path: Path) -> None:
    directory = write_project(tmp_path, (POLISH, POLISH.replace(", agent=self.editor()", "")))
    with pytest.raises(DocumentError) as caught:
        load_crewai_project(directory)
    [problem] = caught.value.problems
    tasks_yaml = "src/notes/config/tasks.yaml"
    assert (problem.file, problem.line) == (tasks_yaml, line_of(directory, "polish:", tasks_yaml))
    assert "agent: NAME" in problem.description
    assert "writer, editor" in problem.description
    assert f"{tasks_yaml}:{problem.line}" in str(caught.value)


def test_faults_of_the_server_are_placed_in_the_files(tmp_path: Path) -> None:
    agents = "writer:\n  role: Writer\n  goal: Write\n  llm: no/such\neditor: {role: Editor, goal: Edit}\n"
    directory = write_project(tmp_path, (WRITER, WRITER[:-1] + ",\n            max_iter=9)"), agents=agents)
    document = load_crewai_project(directory).document
    model = document.problem("spec.agents[0].model", "unknown")
    assert (model.file, model.line) == ("src/notes/config/agents.yaml", 4)
    iterations = document.problem("spec.agents[0].max_iterations", "too many")
    assert (iterations.file, iterations.line) == (CREW_PY, line_of(directory, "max_iter"))


def test_an_entry_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"crew\.py:15: agents\.writer\.config: agents\.yaml has no entry 'poet'"):
        load_crewai_project(write_project(tmp_path, ('agents_config["writer"]', 'agents_config["poet"]')))


def test_what_happens_to_an_agent_after_it_was_built_is_noted(tmp_path: Path) -> None:
    built = f"made = {WRITER}\n        made.max_iter = 3\n        return made"
    imported = load_crewai_project(write_project(tmp_path, (f"return {WRITER}", built)))
    assert agent(imported, "writer").role == "Writer"
    assert "write it as an argument" in note(imported, "agents.writer.max_iter").description


def test_nothing_of_the_code_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    run = f"open({str(mark)!r}, 'w').close()\n"
    code = f"{run}{CODE}\n{run}"
    load_crewai_project(write_project(tmp_path / "project", code=code, files={"src/notes/__init__.py": run}))
    assert not mark.exists()


def test_a_list_that_changes_is_not_taken_for_its_beginning(tmp_path: Path) -> None:
    built = f"found = [A()]\n        found.append(B())\n        return {WRITER[:-1]}, tools=found)"
    imported = load_crewai_project(write_project(tmp_path, (f"return {WRITER}", built)))
    assert [one.field for one in imported.notes] == ["found"]


def test_a_file_that_the_class_names_and_nobody_wrote_is_noted(tmp_path: Path) -> None:
    directory = write_project(tmp_path, ("config/agents.yaml", "config/gone.yaml"))
    [found] = load_crewai_project(directory).notes
    assert (found.field, found.line) == ("Notes.agents_config", line_of(directory, "gone.yaml"))


def test_tools_that_are_put_together_at_run_time_are_noted(tmp_path: Path) -> None:
    directory = write_project(tmp_path, (WRITER, WRITER[:-1] + ", tools=[one for one in FOUND])"))
    [found] = load_crewai_project(directory).notes
    assert (found.field, found.line) == ("tools", line_of(directory, "tools="))


def test_an_agent_that_nobody_names_is_told_how_to_be_one(tmp_path: Path) -> None:
    directory = write_project(tmp_path, (DRAFT, DRAFT.replace("self.writer()", "hired()")))
    with pytest.raises(DocumentError, match="write a method marked @agent"):
        load_crewai_project(directory)


def test_an_agent_that_is_built_in_a_task_becomes_one_of_the_crew(tmp_path: Path) -> None:
    built = 'Agent(role="Checker", goal="Check", backstory="b", llm="a/b", max_iter=3)'
    directory = write_project(tmp_path, ("agent=self.writer()", f"agent={built}"))
    spec = load_crewai_project(directory).spec
    (task,) = [task for task in spec.tasks if task.agent.endswith("_agent")]
    assert task.agent == f"{task.name}_agent"
    (agent_in_place,) = [one for one in spec.agents if one.name == task.agent]
    assert (agent_in_place.role, agent_in_place.model, agent_in_place.max_iterations) == ("Checker", "a/b", 3)


def test_methods_that_are_inherited_in_one_file_are_read(tmp_path: Path) -> None:
    whole = load_crewai_project(write_project(tmp_path / "whole"))
    agents = CODE[CODE.index("    @agent") : CODE.index("    @task")]
    head, rest = CODE.replace(agents, "").replace("class Notes:", "class Notes(Staff):").split("@CrewBase")
    code = f"{head}class Staff:\n{agents.rstrip()}\n\n\n@CrewBase{rest}"
    parted = load_crewai_project(write_project(tmp_path / "parted", code=code))
    assert parted.spec.agents == whole.spec.agents
    assert parted.spec.tasks == whole.spec.tasks
    assert parted.notes == ()
