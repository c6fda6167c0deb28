"""Tools out of an installed package, in processes of their own."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.common.errors import CoxswainError, FailedPrecondition, Unavailable
from services.orchestrator.domain.tool_source import PythonTools, ShareField, SourceKind, ToolSourceSpec
from services.orchestrator.tool_gateway.adapters.python.adapter import PythonToolsAdapter, tool_secrets
from services.orchestrator.tool_gateway.adapters.python.tool_process import ToolProcessLimits
from services.orchestrator.tool_gateway.ports import CallRefused, NotSent, OutcomeUnknown, ToolResult
from services.orchestrator.tool_gateway.settings import ToolGatewaySettings
from tests.support.harness import serve_services
from tests.support.tool_gateway import FixedSources, GatewayCaller
from tests.support.tool_provider import RecordedProgress, call_of, principal
from tests.support.waiting import until

PACKAGE = Path(__file__).resolve().parents[2] / "support" / "tool_package"
SECRETS = {"DESK_TOKEN": "desk-secret-1"}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment of its own with the package installed; it finds CrewAI in that of the tests."""
    directory = tmp_path_factory.mktemp("tools")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    packages = directory / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    sources = directory / "package"
    subprocess.run(["cp", "-r", PACKAGE, sources], check=True)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-index", "--no-build-isolation", "--target", packages, sources),
        ],
        check=True,
    )
    (packages / "of_the_tests.pth").write_text(sysconfig.get_path("purelib"))
    return str(directory / "bin" / "python")


@contextlib.asynccontextmanager
async def adapter(python: str, **options: Any) -> AsyncIterator[PythonToolsAdapter]:
    limits = ToolProcessLimits(**{"max_bytes": 1024 * 1024, "cpu_seconds": 20} | options.pop("limits", {}))
    made = PythonToolsAdapter(python, options.pop("secrets", SECRETS), limits=limits, **options)
    try:
        yield made
    finally:
        await made.close()


def source(entry_point: str = "desk", **fields: Any) -> ToolSourceSpec:
    return ToolSourceSpec(name="desk", kind=SourceKind.PYTHON, endpoint=PythonTools(entry_point), **fields)


async def called(
    tools: PythonToolsAdapter, tool: str, progress: RecordedProgress | None = None, **fields: Any
) -> ToolResult:
    spec = fields.pop("spec", source())
    return await tools.call(call_of(spec, tool=tool, **fields), progress or RecordedProgress())


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def read(path: Path) -> str:
    return path.read_text()


def exists(path: str) -> bool:
    return Path(path).exists()


async def test_functions_and_classes_are_listed_as_they_describe_themselves(python: str) -> None:
    async with adapter(python) as tools:
        listed = {tool.name: tool for tool in await tools.list_tools(source(), principal())}
        [alone] = await tools.list_tools(source("one"), principal())
    assert list(listed) == ["greet", "look", "fail", "wait"]
    assert (alone.name, alone.description, alone.idempotent_hint) == ("greet", "Greet somebody.", True)
    assert listed["greet"].arguments_schema["properties"] == {"name": {"type": "string"}}
    assert listed["fail"].idempotent_hint is None


async def test_a_tool_sees_its_call_its_secrets_and_nothing_of_the_gateway(
    python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COXSWAIN_DATABASE_URL", "postgresql://user:password@db/x")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    progress = RecordedProgress()
    arguments = {"whole": 2**63 + 1, "large": 1e16, "nothing": None, "text": "ä\u2028\ud800"}
    async with adapter(python) as tools:
        spec = source(share=(ShareField.GROUP, ShareField.LABELS))
        returned = await called(tools, "look", progress, arguments=arguments, spec=spec)
        seen = returned.structured
        assert seen["arguments"] == arguments | {"text": "ä\u2028\ufffd"}
        assert (seen["call_id"], seen["group"], seen["subject"], seen["labels"]) == (
            "call-1",
            "sales",
            "",
            {"order": "17"},
        )
        assert seen["secrets"] == {"DESK_TOKEN": "[secret]"}, "what a tool returns does not show them"
        assert not [name for name in seen["environment"] if "COXSWAIN" in name or "PYTHON" in name]
        assert "password" not in str(seen["environment"])
        assert "NoNewPrivs:\t1" in seen["status"]
        assert seen["dumpable"] == 0, "the secrets of calls stay in its memory"
        assert seen["directory"] == seen["environment"]["HOME"]
        assert exists(seen["directory"])
    assert not exists(seen["directory"])
    assert (progress.texts, progress.fractions, progress.sent_count) == (["looking"], [0.5], 1)
    assert [(file.name, file.media_type, file.content) for file in returned.files] == [
        ("notes.txt", "text/plain", b"seen")
    ]


async def test_a_secret_that_the_operator_has_not_set_is_named(python: str) -> None:
    progress = RecordedProgress()
    async with adapter(python, secrets={}) as tools:
        with pytest.raises(CallRefused, match="COXSWAIN_TOOLS_SECRET_DESK_TOKEN") as refused:
            await called(tools, "look", progress)
    assert refused.value.reason == "CREDENTIAL_NOT_CONFIGURED"
    assert progress.sent_count == 0
    assert tool_secrets({"COXSWAIN_TOOLS_SECRET_A": "1", "COXSWAIN_SECRET_B": "2"}) == {"A": "1"}


async def test_what_a_tool_raises_is_unknown_unless_it_says_what_is_wrong(python: str) -> None:
    async with adapter(python, limits={"cpu_seconds": 1, "memory_mib": 256}) as tools:
        told = await called(tools, "fail", arguments={"how": "told"})
        assert (told.text, told.is_error) == ("there is no such invoice", True)
        with pytest.raises(OutcomeUnknown, match="ConnectionError: lost in the middle"):
            await called(tools, "fail", arguments={"how": "raised"})
        harmless = await called(tools, "fail", arguments={"how": "raised"}, idempotent=True)
        assert (harmless.text, harmless.is_error) == ("ConnectionError: lost in the middle", True)
        large = await called(tools, "fail", arguments={"how": "large"})
        assert large.is_error
        assert "the call was made" in large.text
        assert (await called(tools, "fail", arguments={"how": "object"})).text.startswith("<object")
        memory = await called(tools, "fail", arguments={"how": "memory"}, idempotent=True)
        assert memory.text.startswith("MemoryError")
        for how in ("killed", "exit", "processor"):
            with pytest.raises(OutcomeUnknown, match="ended in the middle"):
                await called(tools, "fail", arguments={"how": how})
        assert (await called(tools, "greet", arguments={"name": "Ann"})).text == "Hello, Ann", "the next call runs"


async def test_odd_tools_end_with_an_outcome_and_harm_no_later_call(python: str) -> None:
    progress = RecordedProgress()
    async with adapter(python) as tools:

        async def failed(how: str, **fields: Any) -> ToolResult:
            return await called(
                tools, "odd", spec=source("oddities"), arguments={"how": how}, idempotent=True, **fields
            )

        # Each of them used to hang, to end the process, or to be taken for a result.
        assert (await failed("nothing left")).text.startswith("RuntimeError: the tool raised StopIteration")
        assert (await failed("recursion")).text.startswith("RecursionError")
        assert (await failed("broken")).text == "Broken: (it has no text)"
        assert (await failed("unreadable")).text == "ValueError: not to be shown"
        cut = await failed("secret at the cut")
        assert cut.text == "ConnectionError: ".ljust(4092, "x") + "[sec", "it is out before the text is cut"
        assert (await failed("flood")).text == "dry"
        loud = await failed("loud", progress=progress)
        assert (loud.text, loud.is_error, progress.texts, progress.fractions) == ("said", False, ["y" * 1024], [None])
        for blocking in (False, True):
            pieces = await called(tools, "pieces", spec=source("oddities"), arguments={"blocking": blocking})
            assert pieces.structured == ["one", "two"]


async def test_what_a_call_leaves_running_is_not_heard_in_the_next(python: str) -> None:
    async with adapter(python) as tools:
        spec = source("oddities")
        assert (await called(tools, "haunt", spec=spec, call_id="first")).text == "left"
        for number in range(5):
            progress = RecordedProgress()
            name = {"name": str(number)}
            greeted = await called(tools, "greet", progress, spec=spec, call_id=f"later {number}", arguments=name)
            assert (greeted.text, progress.texts) == (f"Hello, {number}", [])


async def test_processes_of_a_tool_whose_own_process_was_killed_end_too(python: str, tmp_path: Path) -> None:
    progress = RecordedProgress()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # As long as it is held here, they do not end by themselves.
    with pipe.open("rb+", buffering=0):
        async with adapter(python) as tools:
            with pytest.raises(OutcomeUnknown):
                await called(tools, "desert", progress, spec=source("oddities"), arguments={"pipe": str(pipe)})
            [pid] = progress.texts
            await until(lambda: not alive(int(pid)))


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_call_that_nobody_waits_for_ends_with_all_its_processes(python: str, blocking: bool) -> None:
    progress = RecordedProgress()
    async with adapter(python) as tools:
        call = asyncio.create_task(called(tools, "wait", progress, arguments={"blocking": blocking}))
        await progress.progressed.wait()
        pids = [int(pid) for pid in progress.texts[0].split()[:2]]
        assert all(map(alive, pids))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: not any(map(alive, pids)))


async def test_tools_do_not_outlive_a_gateway_that_is_killed(python: str, tmp_path: Path) -> None:
    """The process that holds the pipes is killed: what it started sees their end."""
    script = write(
        tmp_path / "gateway.py",
        "import asyncio, sys\n"
        "from tests.integration.tool_gateway.test_python_tools import adapter, called\n"
        "from tests.support.tool_provider import RecordedProgress\n"
        "class Printing(RecordedProgress):\n"
        "    async def progress(self, text, fraction=None):\n"
        "        print(text, flush=True)\n"
        "async def main():\n"
        "    async with adapter(sys.argv[1]) as tools:\n"
        "        await called(tools, 'wait', Printing(), arguments={'blocking': True})\n"
        "asyncio.run(main())\n",
    )
    root = PACKAGE.parents[2]
    paths = [str(root), str(root / "gen"), str(root / "clients" / "python")]
    gateway = await asyncio.create_subprocess_exec(
        sys.executable,
        script,
        python,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    assert gateway.stdout is not None
    *numbers, home = (await gateway.stdout.readline()).decode().split()
    pids = [int(pid) for pid in numbers]
    assert all(map(alive, pids))
    assert exists(home)
    gateway.send_signal(signal.SIGKILL)
    await gateway.wait()
    await until(lambda: not any(map(alive, pids)))
    assert not exists(home)


@pytest.mark.parametrize(
    ("entry_point", "problem", "kind"),
    [
        ("missing", "no entry point 'missing'", Unavailable),
        ("broken", "the licence has expired", Unavailable),
        ("twice", "two tools have the name 'greet'", Unavailable),
        ("greedy", "MemoryError", Unavailable),
        ("../x", "no entry point", Unavailable),
    ],
)
async def test_an_entry_point_that_cannot_be_used_says_why(
    python: str, entry_point: str, problem: str, kind: type[CoxswainError]
) -> None:
    async with adapter(python) as tools:
        with pytest.raises(kind, match=problem):
            await tools.list_tools(source(entry_point), principal())
        progress = RecordedProgress()
        with pytest.raises(NotSent, match=problem):
            await called(tools, "greet", progress, spec=source(entry_point))
        assert progress.sent_count == 0


async def test_an_interpreter_that_is_not_there_is_named() -> None:
    async with adapter("/nowhere/python") as tools:
        with pytest.raises(Unavailable, match="/nowhere/python cannot be started"):
            await tools.list_tools(source(), principal())


async def test_groups_share_no_process_and_one_group_reuses_its_own(python: str) -> None:
    async with adapter(python) as tools:

        async def pid(group: str) -> int:
            seen = await called(tools, "look", principal=principal(group))
            return int(seen.structured["pid"])

        first, again, other = await pid("a"), await pid("a"), await pid("b")
        # What rests from here on is ended soon; between the calls so far a busy machine may take longer.
        tools._processes.idle_seconds = 0.05
        assert [await pid("a"), await pid("b")] == [again, other]
        assert first == again != other
        await until(lambda: not alive(first) and not alive(other))
        assert await pid("a") != first


async def test_one_group_cannot_have_all_processes(python: str) -> None:
    async with adapter(python, most_per_group=1, most=2) as tools:
        async with contextlib.AsyncExitStack() as ends:
            for group in ("a", "b"):
                progress = RecordedProgress()
                call = asyncio.create_task(called(tools, "wait", progress, arguments={}, principal=principal(group)))
                ends.push_async_callback(asyncio.wait, [call])
                ends.callback(call.cancel)
                await progress.progressed.wait()
            with pytest.raises(NotSent, match="all 2 tool processes are busy"):
                await called(tools, "greet", arguments={"name": "x"}, principal=principal("c"))
        assert (await called(tools, "greet", arguments={"name": "x"}, principal=principal("c"))).text == "Hello, x"


@pytest.mark.large
async def test_tools_of_crewai_are_wrapped(python: str) -> None:
    async with adapter(python, limits={"memory_mib": 2048, "cpu_seconds": 60, "start_seconds": 100.0}) as tools:
        spec = source("crewai")
        search, shout = await tools.list_tools(spec, principal())
        found = await called(tools, "Desk search", arguments={"query": "lamp"}, spec=spec)
        failed = await called(tools, "Desk search", arguments={"query": "nothing"}, spec=spec)
        louder = await called(tools, "shout", arguments={"text": "ahoy"}, spec=spec)
    assert (search.name, search.description) == ("Desk search", "Searches the desk.")
    assert search.arguments_schema["properties"]["query"]["description"] == "What is looked for."
    assert shout.arguments_schema["required"] == ["text"]
    assert found.structured == {"query": "lamp", "limit": 3, "authenticated": True}
    assert (failed.text, failed.is_error) == ("nothing was found", True)
    assert louder.text == "AHOY"


async def test_descriptions_that_cannot_be_used_are_refused(python: str) -> None:
    async with adapter(python) as tools:
        with pytest.raises(FailedPrecondition, match="no slash"):
            await tools.list_tools(source("odd"), principal())


async def test_tools_that_were_installed_anew_are_listed_as_they_are_now(python: str) -> None:
    [module] = (Path(python).parents[1] / "lib").rglob("coxswain_test_tools/__init__.py")
    async with adapter(python) as tools:
        [before] = await tools.list_tools(source("one"), principal())
        text = read(module)
        write(module, text.replace("Greet somebody.", "Greet everybody."))
        [after] = await tools.list_tools(source("one"), principal())
        write(module, text)
    assert (before.description, after.description) == ("Greet somebody.", "Greet everybody.")


async def test_the_gateway_runs_them_with_the_secrets_of_its_environment(
    python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COXSWAIN_TOOLS_SECRET_DESK_TOKEN", "marked-token-5d01")
    sources = FixedSources([source()])
    settings = ToolGatewaySettings(python=Path(python))
    async with serve_services(tmp_path, "tools", sources=sources, settings={"tools": settings}) as harness:
        gateway = GatewayCaller.of(harness)
        listed = await gateway.list(sources.sources[0].id)
        events = [event async for event in gateway.events("desk/look", '{"n": 9007199254740993}')]
        raised = await gateway.call("desk/fail", '{"how": "raised"}')
    assert [tool.name for tool in listed] == ["greet", "look", "fail", "wait"]
    assert [event.WhichOneof("event") for event in events] == ["progress", "outcome"]
    seen = json.loads(events[-1].outcome.result.structured_json)
    assert seen["arguments"] == {"n": 9007199254740993}
    assert not [name for name in seen["environment"] if name.startswith("COXSWAIN")]
    assert raised.WhichOneof("outcome") == "unknown"
    assert "marked-token-5d01" not in str(events) + "".join(capfd.readouterr())
