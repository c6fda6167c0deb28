"""The crews of a project are found, whatever its layout, and hostile files end in a sentence."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coxswain.client import DocumentError, load_crewai_project
from coxswain.orchestrator.v1.crew_pb2 import Process
from tests.support.crewai_projects import AGENTS, CODE, CREW, TASKS, WRITER, line_of, write_project

FLOW = "from crewai.flow import Flow\n\n\nclass Book(Flow[State]):\n    pass\n"


def crews_of_a_flow(directory: Path) -> Path:
    """A flow with two crews, each in a directory of its own."""
    for name in ("poems", "songs"):
        crew = directory / "src" / "flow" / "crews" / f"{name}_crew"
        (crew / "config").mkdir(parents=True)
        (crew / "config" / "agents.yaml").write_text(AGENTS)
        (crew / "config" / "tasks.yaml").write_text(TASKS)
        (crew / f"{name}_crew.py").write_text(CODE.replace("class Notes", f"class {name.title()}"))
    (directory / "src" / "flow" / "main.py").write_text(FLOW)
    (directory / "pyproject.toml").write_text("")
    return directory


def test_the_crews_of_a_flow_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as caught:
        load_crewai_project(crews_of_a_flow(tmp_path))
    poems, songs, flow = caught.value.problems
    assert (poems.field, songs.field, flow.field) == ("Poems", "Songs", "Book")
    assert "src/flow/crews/poems_crew" in poems.description
    assert "src/flow/crews/songs_crew" in songs.description
    assert poems.file == "src/flow/crews/poems_crew/poems_crew.py"
    assert poems.line > 0
    assert (flow.file, flow.line) == ("src/flow/main.py", 4)


@pytest.mark.parametrize("inner", ["", "config"])
@pytest.mark.parametrize("name", ["poems", "songs"])
def test_each_crew_of_a_flow_can_be_given_by_its_directory(tmp_path: Path, name: str, inner: str) -> None:
    directory = crews_of_a_flow(tmp_path) / "src" / "flow" / "crews" / f"{name}_crew" / inner
    imported = load_crewai_project(directory)
    assert imported.spec.name == f"{name}_crew"
    assert [one.agent for one in imported.spec.tasks] == ["writer", "editor"]


def test_a_flow_beside_a_single_crew_is_a_note(tmp_path: Path) -> None:
    imported = load_crewai_project(write_project(tmp_path, files={"src/notes/main.py": FLOW}))
    assert [(one.field, one.file, one.line) for one in imported.notes] == [("Book", "src/notes/main.py", 4)]


@pytest.mark.parametrize("where", [".", "src", "src/notes", "src/notes/config"])
def test_a_crew_is_found_from_every_directory_around_it(tmp_path: Path, where: str) -> None:
    write_project(tmp_path)
    assert load_crewai_project(tmp_path / where).spec.tasks[1].agent == "editor"


def test_two_classes_in_one_file_are_named_and_one_is_chosen(tmp_path: Path) -> None:
    second = CODE[CODE.index("@CrewBase") :].replace("class Notes", "class Songs").replace("def draft", "def sketch")
    directory = write_project(tmp_path, code=f"{CODE}\n\n{second}")
    with pytest.raises(DocumentError) as caught:
        load_crewai_project(directory)
    assert [(one.field, one.line) for one in caught.value.problems] == [
        ("Notes", line_of(directory, "class Notes")),
        ("Songs", line_of(directory, "class Songs")),
    ]
    assert "--crew-class Songs" in caught.value.problems[1].description
    assert [one.name for one in load_crewai_project(directory, crew_class="Songs").spec.tasks] == ["sketch", "polish"]
    assert [one.name for one in load_crewai_project(directory, crew_class="Notes").spec.tasks] == ["draft", "polish"]
    with pytest.raises(DocumentError, match="no @CrewBase class 'Poems' here, but Notes, Songs"):
        load_crewai_project(directory, crew_class="Poems")


def test_files_that_the_class_names_are_read(tmp_path: Path) -> None:
    directory = write_project(
        tmp_path,
        ("config/agents.yaml", "texts/people.yaml"),
        files={"src/notes/texts/people.yaml": AGENTS.replace("Writer", "Poet")},
    )
    assert load_crewai_project(directory).spec.agents[0].role == "Poet"


def test_plain_python_is_said_to_be_that(tmp_path: Path) -> None:
    for name in ("agents.py", "tasks.py"):
        (tmp_path / name).write_text("from crewai import Agent, Task\n")
    with pytest.raises(FileNotFoundError) as caught:
        load_crewai_project(tmp_path)
    assert "agents.py, tasks.py" in str(caught.value)
    assert "plain Python" in str(caught.value)
    assert "config/agents.yaml" in str(caught.value)


def test_a_syntax_error_is_named_with_its_line(tmp_path: Path) -> None:
    directory = write_project(tmp_path, (CREW, f"{CREW[:-1]}, process=)"))
    with pytest.raises(DocumentError) as caught:
        load_crewai_project(directory)
    assert f"src/notes/crew.py:{line_of(directory, 'process=)')}: not valid Python" in str(caught.value)


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "zeros": b"\0" * 100,
    "utf-16": CODE.encode("utf-16"),
    "bytes that are no text": b"@CrewBase\nclass A:\n    x = '\xff\xfe'\n",
    "an unknown encoding": b"# -*- coding: klingon -*-\n" + CODE.encode(),
    "huge": CODE.encode() + b"# " + b"x" * 2_000_000,
    "brackets": CODE.encode() + b"x = " + b"(" * 100_000,
    "closed brackets": CODE.encode() + b"x = " + b"[" * 150 + b"]" * 150,
    "minus": CODE.encode() + b"x = " + b"-" * 50_000 + b"1\n",
    "a long sum": CODE.encode() + b"x = " + b"1+" * 50_000 + b"1\n",
    "long attributes": CODE.encode() + b"x = a" + b".b" * 50_000 + b"\n",
    "deep blocks": CODE.encode() + b"".join(b" " * depth + b"if x:\n" for depth in range(99)) + b" " * 99 + b"pass\n",
    "many else": CODE.encode() + b"if x:\n pass\n" + b"elif x:\n pass\n" * 5_000,
}


@pytest.mark.parametrize("code", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_is_read_or_ends_in_a_sentence(tmp_path: Path, code: bytes) -> None:
    directory = write_project(tmp_path)
    (directory / "src/notes/crew.py").write_bytes(code)
    with contextlib.suppress(DocumentError):
        load_crewai_project(directory)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1"])
def test_every_encoding_of_python_is_read(tmp_path: Path, encoding: str) -> None:
    mark = "" if encoding == "utf-8-sig" else f"# -*- coding: {encoding} -*-\n"
    directory = write_project(tmp_path)
    code = mark + CODE.replace(WRITER, WRITER[:-1] + ', goal="Schön schreiben")')
    (directory / "src/notes/crew.py").write_bytes(code.encode(encoding))
    assert load_crewai_project(directory).spec.agents[0].goal == "Schön schreiben"


VALUES = {
    "deep": "(" * 60 + "'x'" + ",)" * 60,
    "a sum": "+".join(["'x'"] * 300),
    "a circle": "A",
    "doubled text": "D40",
    "doubled lists": "[*L40]",
    "a half character": r"'\ud800'",
    "a large number": "9" * 400,
    "bytes": "b'x'",
    "a lambda": "lambda: 1",
    "starred": "[*LOOP]",
    "dict": "{**LOOP}",
    "infinite": "1e999",
    "division": "1 / 0",
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize("key", ["goal", "max_iter", "tools", "llm", "knowledge_sources", "config", "temperature"])
def test_a_hostile_value_is_noted_or_ends_in_a_sentence(tmp_path: Path, value: str, key: str) -> None:
    lines = ["A = B", "B = A", "LOOP = [*LOOP]", f"D0 = {'x' * 5000!r}", "L0 = ['x', 'y']"]
    lines += [f"D{one + 1} = D{one} + D{one}\nL{one + 1} = [*L{one}, *L{one}]" for one in range(40)]
    before = "\n".join(lines)
    directory = write_project(
        tmp_path,
        (WRITER, f'Agent(role="R", {key}={value})'),
        code=CODE.replace("@CrewBase", f"{before}\n\n\n@CrewBase"),
    )
    with contextlib.suppress(DocumentError):
        assert load_crewai_project(directory).spec.agents[0].name == "writer"


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(start=st.integers(0, len(CODE)), cut=st.integers(0, 40), put=st.text("()[]{}=,.:@\n\"' selfx1*", max_size=8))
def test_a_damaged_file_is_read_or_ends_in_a_sentence(tmp_path: Path, start: int, cut: int, put: str) -> None:
    directory = write_project(tmp_path, code=CODE[:start] + put + CODE[start + cut :])
    with contextlib.suppress(DocumentError, FileNotFoundError):
        assert load_crewai_project(directory).spec.tasks


_AGENT = {
    "role": '"R"',
    "goal": "make()",
    "backstory": "'b'",
    "llm": 'LLM(model="a/b", temperature=1)',
    "function_calling_llm": "FAST",
    "tools": "[Search(), *more()]",
    "allow_delegation": "True",
    "max_iter": "3",
    "max_rpm": "4",
    "max_execution_time": "5",
    "max_retry_limit": "6",
    "verbose": "True",
    "reasoning": "True",
    "inject_date": "True",
    "date_format": "'%Y'",
    "max_tokens": "7",
    "planning_config": "PlanningConfig(max_attempts=3)",
    "knowledge_sources": "[Pdf()]",
    "step_callback": "print",
    "system_template": "'x'",
    "cache": "True",
    "anything_new": "1",
}
_ARRIVES = {
    "role": "role",
    "backstory": "backstory",
    "llm": "model",
    "allow_delegation": "allow_delegation",
    "max_iter": "max_iterations",
    "max_rpm": "max_calls_per_minute",
    "max_execution_time": "max_execution_time",
    "max_retry_limit": "max_retries",
    "reasoning": "planning",
    "inject_date": "inject_date",
    "date_format": "date_format",
    "max_tokens": "max_tokens",
}
_NOTED_AS = {"tools": "Search", "verbose": "verbose"}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(keys=st.lists(st.sampled_from(sorted(_AGENT)), unique=True))
def test_every_argument_arrives_or_is_noted(tmp_path: Path, keys: list[str]) -> None:
    arguments = "".join(f",\n            {key}={_AGENT[key]}" for key in keys)
    directory = write_project(tmp_path, (WRITER, f"{WRITER[:-1]}{arguments})"))
    imported = load_crewai_project(directory)
    noted = {one.field: one.line for one in imported.notes}
    without = load_crewai_project(write_project(tmp_path)).spec.agents[0]
    # The note's line is looked for in the code with the arguments.
    write_project(tmp_path, (WRITER, f"{WRITER[:-1]}{arguments})"))
    for key in keys:
        if key in _ARRIVES:
            assert getattr(imported.spec.agents[0], _ARRIVES[key]) != getattr(without, _ARRIVES[key])
        else:
            assert noted.pop(_NOTED_AS.get(key, f"agents.writer.{key}")) == line_of(directory, f" {key}=")
    # What else there is belongs to the same list.
    assert set(noted) == ({"more"} if "tools" in keys else set())


_TASK = {
    "name": "'x'",
    "context": "[]",
    "tools": "[Search()]",
    "async_execution": "True",
    "human_input": "True",
    "markdown": "True",
    "guardrail": "'Short'",
    "guardrail_max_retries": "0",
    "output_pydantic": "Missing",
    "output_file": "'x.md'",
    "create_directory": "False",
    "callback": "print",
    "condition": "print",
    "converter_cls": "X",
    "agent": "somebody()",
    "anything_new": "1",
}
_CREW = {
    "name": "'other'",
    "process": "Process.hierarchical",
    "manager_llm": "'a/b'",
    "manager_agent": "self.editor()",
    "memory": "True",
    "planning": "True",
    "planning_llm": "LLM('a/b')",
    "knowledge_sources": "[StringKnowledgeSource(content='x')]",
    "embedder": "{}",
    "max_rpm": "3",
    "function_calling_llm": "'a/b'",
    "chat_llm": "'a/b'",
    "verbose": "True",
    "cache": "True",
    "share_crew": "True",
    "step_callback": "print",
    "task_callback": "print",
    "output_log_file": "True",
    "prompt_file": "'x'",
    "anything_new": "1",
}
_PLACES = {"tasks.draft": (", agent=self.writer())", _TASK), "crew": ("tasks=self.tasks)", _CREW)}


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data(), place=st.sampled_from(sorted(_PLACES)))
def test_every_argument_of_tasks_and_crews_arrives_or_is_noted(tmp_path: Path, data: st.DataObject, place: str) -> None:
    end, values = _PLACES[place]
    keys = data.draw(st.lists(st.sampled_from(sorted(values)), unique=True))
    tasks = TASKS.replace("A draft\n", "A draft\n  agent: writer\n").replace("A text\n", "A text\n  agent: editor\n")
    code = CODE.replace(", agent=self.editor()", "")
    kept = end if place == "crew" or "agent" not in keys else ")"
    arguments = "".join(f",\n            {key}={values[key]}" for key in keys)
    alone = load_crewai_project(write_project(tmp_path, (end, kept), code=code, tasks=tasks)).spec
    directory = write_project(tmp_path, (end, f"{kept[:-1]}{arguments})"), code=code, tasks=tasks)
    imported = load_crewai_project(directory)
    noted = {one.field: one.line for one in imported.notes}
    lines = {key: line_of(directory, f" {key}=") for key in keys}
    for key in keys:
        name = {"tools": "Search", "verbose": "verbose"}.get(key, f"{place}.{key}")
        if name in noted:
            assert noted[name] == lines[key]
        else:
            # It arrives: without it the crew is another one.
            rest = "".join(f",\n            {one}={values[one]}" for one in keys if one != key)
            write_project(tmp_path, (end, f"{kept[:-1]}{rest})"), code=code, tasks=tasks)
            assert load_crewai_project(tmp_path).spec != imported.spec
    assert keys or imported.spec == alone


@pytest.mark.parametrize("process", ["hierarchical", "Process.hierarchical", "HOW"])
def test_a_process_is_found_wherever_it_stands(tmp_path: Path, process: str) -> None:
    text = f'"{process}"' if process == "hierarchical" else process
    code = CODE.replace("@CrewBase", "HOW = Process.hierarchical\n\n\n@CrewBase")
    directory = write_project(tmp_path, (CREW, f"{CREW[:-1]}, process={text})"), code=code)
    assert load_crewai_project(directory).spec.process == Process.PROCESS_HIERARCHICAL
