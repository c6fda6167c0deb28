"""The command line against real services: what people type, what they read, and how it ends."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from coxswain.auth.v1.delegation_pb2 import ExecutionIdentity, OnCredentialExpiry
from coxswain.client.cli.app import app
from coxswain.client.version import VERSION
from coxswain.orchestrator.v1 import execution_pb2 as pb
from tests.integration.client.command_line import INTERRUPTIBLE, Run, invoke, rewrite, rows
from tests.integration.client.installation import Installation, Server, refuse
from tests.support.child_process import scrubbed_environment
from tests.support.harness import BOB

ROOT = Path(__file__).parents[3]


async def test_an_ended_execution_is_deleted_and_a_group_says_how_long_others_stay(run: Run, crew_file: str) -> None:
    execution_id = (await run("run", "-f", crew_file, "-i", "text=x", "--detach")).stdout.strip()
    assert "cancel it" in (await run("delete", execution_id, "--yes")).stderr
    await run("cancel", execution_id)
    assert (await run("delete", execution_id)).exit_code == 2, "nobody can be asked"
    assert (await run("delete", execution_id, "--yes")).stdout == "deleted\n"
    assert (await run("delete", execution_id, "--yes")).stdout == "there was nothing to delete\n"
    assert (await run("retention")).stdout == "for ever (the default)\n"
    assert (await run("retention", "30d", "--yes")).stdout == "30 days after their end (your group's choice)\n"
    assert (await run("retention", "12h", "-y")).stdout == "12 hours after their end (your group's choice)\n"
    assert (await run("retention", "forever")).stdout == "for ever (your group's choice)\n"
    assert (await run("retention", "default", "-y")).stdout == "for ever (the default)\n"
    assert (await run("retention", "soon")).exit_code == 2


async def test_a_batch_is_a_file_of_inputs(run: Run, crew_file: str, tmp_path: Path) -> None:
    assert (await run("apply", "-f", crew_file)).exit_code == 0
    assert (await run("batch", "list")).stdout == "no batches\n"
    inputs = tmp_path / "inputs.jsonl"
    for wrong, said in (
        ("", "empty"),
        ("{\n", "line 1 is not valid"),
        ('{"text": "a"}\n[]', "line 2 is not"),
    ):
        inputs.write_text(wrong)
        refused = await run("batch", "start", "brief", "-f", str(inputs))
        # What is wrong stands in a frame, broken into lines.
        words = " ".join(refused.stderr.replace("│", " ").split())
        assert (refused.exit_code, said in words) == (2, True), words
    inputs.write_text('{"text": "a\u2028b"}\n\n{"text": "b"}\n{"text": "c"}\n')
    started = await run("batch", "start", "brief", "-f", str(inputs), "--parallel", "2", "--label", "team=a")
    batch_id = started.stdout.strip()
    assert f"coxswain batch show {batch_id}" in started.stderr
    shown = (await run("batch", "show", batch_id)).stdout
    assert [line.split() for line in shown.splitlines() if line.startswith("labels")] == [["labels", "team=a"]]
    assert batch_id in (await run("batch", "list")).stdout
    await run("batch", "cancel", batch_id)
    [batch] = rows(await run("batch", "show", batch_id, "--json"))
    assert (batch["total"], "cancel_request_time" in batch) == (3, True)
    async with asyncio.timeout(60):
        while "end_time" not in rows(await run("batch", "show", batch_id, "--json"))[0]:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.1)
    assert "deleted, with" in (await run("batch", "delete", batch_id, "--yes")).stdout
    assert "nothing to delete" in (await run("batch", "delete", batch_id, "--yes")).stdout


async def test_status_tells_health_and_identity(run: Run) -> None:
    result = await run("status")
    assert result.exit_code == 0
    assert "coxswain.orchestrator.v1.ExecutionService  serving" in " ".join(result.stdout.split()).replace(
        " serving", "  serving"
    )
    assert "worker hosts: none" in result.stdout
    assert "tool gateway: does not answer" in result.stdout
    # Who calls the gateway are services, so that no listener for clients has it.
    assert "ToolGatewayService" not in result.stdout
    assert "you are dev|alice, admin of sales" in result.stdout


def test_a_server_that_is_not_there_is_named_with_what_to_do() -> None:
    result = invoke("127.0.0.1:1", "status")
    assert result.exit_code == 10 + 14
    assert "127.0.0.1:1 cannot be reached" in result.stderr
    assert "coxswain up" in result.stderr


def test_a_service_that_another_address_has_is_pointed_to(server: Server) -> None:
    result = invoke(server.address, "models")
    assert result.exit_code == 10 + 12
    assert f"{server.address} does not serve this" in result.stderr
    assert "--address" in result.stderr


async def test_a_token_of_no_group_is_kept_with_a_warning(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COXSWAIN_CONTEXTS", str(tmp_path / "contexts.json"))
    useless = await run("login", "here", token="dev:nope")
    assert useless.exit_code == 0
    assert "nothing can be done with this token" in useless.stderr
    assert "coxswain member set 'dev|nope' operator" in useless.stderr
    assert "warning" not in (await run("login", "here")).stderr


async def test_the_version_of_the_server_is_shown_where_one_answers(run: Run) -> None:
    assert (await run("version")).stdout == f"coxswain {VERSION}\nserver {VERSION} at {run.address}\n"
    [told] = rows(await run("version", "--json"))
    services = dict.fromkeys(("auth", "memory", "models", "orchestrator"), VERSION)
    assert told == {"version": VERSION, "services": services}
    for nowhere in ("127.0.0.1:1", "host-without-a-port"):
        alone = await asyncio.to_thread(invoke, nowhere, "version")
        assert (alone.exit_code, alone.stdout, alone.stderr) == (0, f"coxswain {VERSION}\n", "")
    assert (await run("--version")).stdout == f"coxswain {VERSION}\n"


async def test_whoami_lists_the_groups_one_may_choose(run: Run) -> None:
    [caller] = rows(await run("whoami", "--json"))
    assert caller["principal"]["subject"] == "dev|alice"
    assert [group["group_id"] for group in caller["groups"]] == ["sales"]


async def test_models_and_tools_are_listed(run: Run) -> None:
    listed = (await run("models", "--enabled")).stdout
    assert "offline/extract" in listed
    assert re.search(r"offline/extract +- +yes", listed)
    assert "calculator" in (await run("tool", "list")).stdout


async def test_a_model_is_shown_with_its_prices_and_where_they_come_from(run: Run) -> None:
    shown = [line.split() for line in (await run("models", "openai/gpt-5")).stdout.splitlines()]
    assert ["$", "per", "million", "input", "tokens", "1.25", "packaged", "list"] in shown
    assert ["tokens", "of", "a", "prompt", "272,000", "configuration"] in shown
    missing = await run("models", "openai/gpt5")
    assert missing.exit_code == 10 + 5
    assert "did you mean" in missing.stderr
    [model] = rows(await run("models", "openai/gpt-5", "--json"))
    assert model["name"] == "openai/gpt-5"


async def test_a_crew_is_created_then_updated_then_left_alone(run: Run, crew_file: str) -> None:
    first = await run("apply", "-f", crew_file)
    assert (first.exit_code, first.stdout.split(",")[0]) == (0, "brief created: revision 1")
    rewrite(crew_file, "goal: Read", "goal: Read well")
    assert "brief updated: revision 2" in (await run("apply", "-f", crew_file)).stdout
    assert "brief unchanged: revision 2" in (await run("apply", "-f", crew_file)).stdout
    [[crew]] = rows(await run("crews", "--json"))
    assert (crew["revision"], crew["spec"]["agents"][0]["goal"]) == (2, "Read well")


@pytest.mark.parametrize("check", [[], ["--check"]])
async def test_faults_the_server_finds_are_placed_in_the_file(run: Run, crew_file: str, check: list[str]) -> None:
    rewrite(crew_file, "agent: reader", "agent: raeder")
    result = await run("apply", "-f", crew_file, *check)
    assert result.exit_code == (1 if check else 2)
    [line] = [line for line in (result.stdout + result.stderr).splitlines() if "tasks[0].agent" in line]
    assert line.split()[0] == "11"
    assert "raeder" in line
    [crews] = rows(await run("crews", "--json"))
    assert crews == []


def test_faults_of_the_file_are_found_before_anything_is_sent(crew_file: str) -> None:
    rewrite(crew_file, "goal:", "gaol:")
    result = invoke("127.0.0.1:1", "apply", "-f", crew_file)
    assert result.exit_code == 2
    assert "did you mean 'goal'?" in result.stderr


async def test_a_crewai_project_is_applied_and_what_is_lost_is_said(run: Run, tmp_path: Path) -> None:
    directory = tmp_path / "news"
    directory.mkdir()
    (directory / "agents.yaml").write_text("writer: {role: Writer, goal: Write, backstory: x, verbose: true}\n")
    (directory / "tasks.yaml").write_text("write: {description: Write, expected_output: Text, agent: writer}\n")
    result = await run("apply", "-f", str(directory), "--name", "daily")
    assert "daily created" in result.stdout
    assert "agents.writer.verbose" in result.stderr


async def test_a_detached_run_prints_the_id_and_is_listed(run: Run, crew_file: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes("Ünïcode".encode("utf-16"))
    result = await run("run", "-f", crew_file, "-i", f"text=@{text}", "--detach", "--label", "who=me")
    assert result.exit_code == 0, result.stderr
    execution_id = result.stdout.strip()
    assert "read as utf-16" in result.stderr
    [execution] = rows(await run("get", execution_id, "--json"))
    assert execution["inputs"] == {"text": "Ünïcode"}
    assert execution["labels"] == {"who": "me"}
    assert (execution["identity"], execution["on_credential_expiry"]) == (
        "EXECUTION_IDENTITY_GROUP",
        "ON_CREDENTIAL_EXPIRY_PARK",
    )
    shown = (await run("get", execution_id)).stdout
    assert [line.split() for line in shown.splitlines() if "acts as" in line] == [["acts", "as", "group"]]
    # The identity of a group does not expire.
    assert "on expiry" not in shown
    listed = (await run("executions", "--state", "queued", "--crew", "brief")).stdout
    assert execution_id in listed
    assert "group" in listed
    assert (await run("executions", "--state", "failed")).stdout.count("\n") == 1
    for filters, count in (
        (["--since", "1h", "--subject", "dev|alice"], 1),
        (["--label", "team=a"], 0),
        (["--reason", "TASK_FAILED"], 0),
        (["--ended-since", "1d"], 0),
        (["--resumed-from", "0"], 0),
    ):
        assert len(rows(await run("executions", *filters, "--json"))[0]) == count, filters
    assert "extract: pending" in (await run("outputs", execution_id)).stdout


async def test_a_repeated_run_with_one_request_id_is_one_execution(run: Run, crew_file: str) -> None:
    await run("apply", "-f", crew_file)
    command = ["run", "brief", "-i", "text=a", "--detach", "--request-id", "mine"]
    assert (await run(*command)).stdout == (await run(*command)).stdout
    other = await run(*["text=b" if part == "text=a" else part for part in command])
    assert other.exit_code == 10 + 6
    assert "REQUEST_ID_REUSED" in other.stderr


async def test_a_waiting_execution_is_cancelled_and_cannot_be_cancelled_by_others(run: Run, crew_file: str) -> None:
    await run("apply", "-f", crew_file)
    execution_id = (await run("run", "brief", "-i", "text=a", "--detach")).stdout.strip()
    foreign = await run("cancel", execution_id, token=BOB)
    assert foreign.exit_code == 10 + 5
    assert "cancel" in (await run("cancel", execution_id)).stdout
    assert (await run("cancel", execution_id)).stdout == "cancelled\n"
    result = await run("watch", execution_id)
    assert result.exit_code == 1
    assert "cancelled" in result.stderr


async def test_missing_inputs_are_named(run: Run, crew_file: str) -> None:
    result = await run("run", "-f", crew_file)
    assert result.exit_code == 10 + 3
    assert "--input text: is missing" in result.stderr
    assert "request id" in result.stderr


async def test_inputs_that_nothing_uses_are_warned_of_and_the_crew_runs(run: Run, crew_file: str) -> None:
    for which in (["-f", crew_file], ["brief"]):
        result = await run("run", *which, "-i", "text=a", "-i", "txet=b", "-i", "zebra=c", "--detach", "--json")
        [execution] = rows(result)
        assert execution["inputs"] == {"text": "a", "txet": "b", "zebra": "c"}
        assert [line for line in result.stderr.splitlines() if "warning" in line] == [
            "warning: no text of brief uses the input 'txet'; did you mean 'text'?",
            "warning: no text of brief uses the input 'zebra'",
        ]
    assert (await run("run", "brief", "-i", "text=a", "--detach", "--json")).stderr == ""


async def test_a_run_repeated_after_the_crew_has_changed_is_still_the_same(run: Run, crew_file: str) -> None:
    await run("apply", "-f", crew_file)
    command = ["run", "brief", "-i", "text=a", "--detach", "--request-id", "mine"]
    first = await run(*command)
    rewrite(crew_file, "goal: Read", "goal: Read well")
    await run("apply", "-f", crew_file)
    assert (await run(*command)).stdout == first.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run"], "give either a crew or --file"),
        (["run", "brief", "-i", "text"], "key=text, key=@file or key:=json"),
        (["run", "brief", "-i", "n:={"], "not valid JSON"),
        (["run", "brief", "-i", "text=@/no/such/file"], "No such file"),
        (["run", "brief", "--label", "x"], "key=value"),
        (["run", "brief", "--identity", "bob"], "'group'"),
        (["run", "brief", "--on-credential-expiry", "never"], "'use-group-identity'"),
        (["executions", "--state", "odd"], "waiting_for_answer"),
        (["memory", "search", "x", "--kind", "odd"], "short_term"),
        (["memory", "search", "x", "--crew", "a", "--memory-id", "b"], "one of --crew and --memory-id"),
        (["memory", "import", "/no/such/file"], "/no/such/file: No such file"),
        (["memory", "import", "/"], "is a directory"),
        (["memory", "export", "/"], "is a directory"),
        (["memory", "list", "--kind", "document", "--crew", "a"], "documents belong to the whole group"),
        (["nonsense"], "No such command"),
        (["executions", "--limit", "many"], "'many' is not a whole number of at least 1"),
        (["--timeout", "1s", "whoami"], "'--timeout': '1s' is not a number of at least 0.1"),
        (["budget", "set", "--alert-share", "2"], "'2' is not a number from 0 to 1"),
        (["run", "x", "--overlap", "odd"], "'--overlap': 'odd' is not one of 'allow'"),
        (["limits", "set", "sales", "--max-crews", "5"], "write max_crews=NUMBER"),
        (["limits", "lower", "--max-crews=5"], "write max_crews=NUMBER"),
        (
            ["secret", "put", "llm/openai", "--origin", "https://u:p@a.example/v1"],
            "leave out the path: https://a.example",
        ),
    ],
)
def test_wrong_usage_is_explained(arguments: list[str], says: str) -> None:
    result = invoke("127.0.0.1:1", *arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["secret", "put", "llm/openai", "s3cret"], "asked for, or read from standard input or from --file"),
        (["secret", "put", "s3cret", "--origin", "https://a.example"], "nothing uses a secret of this name"),
        (["login", "here", "coxt_s3cret"], "asked for, or read from standard input, --token or COXSWAIN_TOKEN"),
        (["login", "dev:s3cret:sales=admin"], "the token is no argument"),
        (["login", f"e30.{'s3cret' * 9}.x"], "the token is no argument"),
    ],
)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_secret_in_the_wrong_place_is_not_repeated(arguments: list[str], says: str, form: list[str]) -> None:
    result = invoke("127.0.0.1:1", *arguments, *form, stdin="")
    assert result.exit_code != 0
    assert says in " ".join(result.stderr.split())
    assert "s3cret" not in result.output


@pytest.mark.parametrize(
    ("arguments", "exit_code", "told"),
    [
        (["whoami"], 24, {"code": "UNAVAILABLE", "message": "127.0.0.1:1 cannot be reached"}),
        (["whoami", "--address", "here"], 2, {"message": "address 'here': give a port, as in here:50051"}),
        (["memory", "import", "/no/file"], 2, {"message": "/no/file: No such file or directory"}),
        (
            ["delete", "x"],
            2,
            {"message": "this would delete execution x with its results and events; repeat with --yes"},
        ),
        (["nonsense"], 2, {"message": "No such command 'nonsense'.", "reason": "WRONG_USAGE"}),
        (["--no-such"], 2, {"message": "No such option: --no-such", "reason": "WRONG_USAGE"}),
        (
            ["get"],
            2,
            {
                "message": "Missing argument 'ID'.",
                "reason": "WRONG_USAGE",
                "fields": [{"field": "ID", "description": "Missing argument 'ID'."}],
            },
        ),
        (
            ["executions", "--limit", "0"],
            2,
            {
                "message": "Invalid value for '--limit': '0' is not a whole number of at least 1",
                "reason": "WRONG_USAGE",
                "fields": [{"field": "--limit", "description": "'0' is not a whole number of at least 1"}],
            },
        ),
    ],
)
@pytest.mark.parametrize("is_before", [True, False])
def test_with_json_errors_are_json_on_standard_error(
    arguments: list[str], exit_code: int, told: dict[str, Any], is_before: bool
) -> None:
    result = invoke("127.0.0.1:1", *(["--json", *arguments] if is_before else [*arguments, "--json"]))
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert json.loads(result.stderr) == told


async def test_with_json_a_refusal_has_its_reason_fields_and_request_id(run: Run) -> None:
    refused = await run("crews", "list", "--limit", "5", "--json", token="dev:alice")
    assert {"code", "message", "reason", "request_id"} <= json.loads(refused.stderr).keys()
    faulty = await run("budget", "set", "--monthly-cost", "5", "--subject", "x" * 2000, "--json")
    told = json.loads(faulty.stderr)
    assert (faulty.exit_code, told["reason"]) == (13, "INVALID_FIELD")
    assert told["fields"][0].keys() == {"field", "description"}
    assert told["request_id"]


def test_help_is_a_word_too() -> None:
    assert "coxswain status" in invoke("127.0.0.1:1", "help").stdout
    assert invoke("127.0.0.1:1", "help", "crews", "get").stdout.startswith("Usage: coxswain crews get")


def test_up_serves_and_ends_as_the_suite_does(tmp_path: Path) -> None:
    environment = scrubbed_environment(tmp_path, COXSWAIN_DATA_DIR=str(tmp_path), COXSWAIN_PORT="port")
    command = [sys.executable, "-m", "coxswain.client", "up"]
    result = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == 2
    assert "COXSWAIN_PORT" in result.stderr


def test_an_address_that_is_none_is_explained() -> None:
    result = invoke("https://example.com/path", "whoami")
    assert result.exit_code == 2
    assert "host and port" in result.stderr


def every_command() -> list[list[str]]:
    found: list[list[str]] = []

    def collect(command: Any, path: list[str]) -> None:
        for name, part in getattr(command, "commands", {}).items():
            collect(part, [*path, name])
        if not hasattr(command, "commands"):
            found.append(path)

    collect(get_command(app), [])
    return found


@pytest.mark.parametrize("command", every_command(), ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert " ".join(command) in " ".join(result.stdout.partition("Example")[2].split())


def event(sequence: int, task: str = "", **what: Any) -> pb.ExecutionEvent:
    return pb.ExecutionEvent(execution_id="e", sequence=sequence, task_name=task, **what)


EVENTS = [
    event(1, execution_queued=pb.ExecutionQueued(crew_name="brief", task_names=["extract"])),
    event(2, "extract", task_started=pb.TaskStarted(agent_role="Reader")),
    event(3, "extract", llm_chunk=pb.LlmChunk(call_id="c", text="The")),
]
SUCCEEDED = event(4, execution_succeeded=pb.ExecutionSucceeded(result=pb.TaskOutput(text="The brief.")))


def test_progress_goes_to_standard_error_and_the_result_to_standard_output(
    server: Server, installation: Installation, crew_file: str
) -> None:
    installation.emit(*EVENTS, SUCCEEDED)
    result = invoke(server.address, "run", "-f", crew_file, "-i", "text=a")
    assert (result.exit_code, result.stdout) == (0, "The brief.\n")
    assert "#2 extract: started by Reader" in result.stderr


def test_with_json_every_event_is_a_line(server: Server, installation: Installation) -> None:
    installation.emit(*EVENTS, SUCCEEDED)
    result = invoke(server.address, "watch", "e", "--after", "1", "--json")
    assert [event["sequence"] for event in rows(result)] == ["2", "3", "4"]


def test_a_failed_execution_ends_with_one_and_says_why(server: Server, installation: Installation) -> None:
    error = pb.ExecutionError(reason="TASK_FAILED", message="no answer", task_name="extract")
    installation.emit(*EVENTS, event(4, execution_failed=pb.ExecutionFailed(error=error)))
    result = invoke(server.address, "watch", "e")
    assert result.exit_code == 1
    assert "failed in task 'extract': no answer (TASK_FAILED)" in result.stderr


def test_inputs_are_text_files_or_json(
    server: Server, installation: Installation, crew_file: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("from a file")
    given = ["a=x=y", f"b=@{tmp_path / 'a.txt'}", 'c:={"n": [1, true]}', "d=@@home", "e=@-"]
    arguments = [part for text in given for part in ("-i", text)]
    result = CliRunner().invoke(
        app, ["--address", server.address, "run", "-f", crew_file, "--detach", *arguments], input=b"piped"
    )
    assert result.exit_code == 0, result.stderr
    inputs = {name: value.WhichOneof("kind") for name, value in installation.requests[-1].inputs.items()}
    texts = {name: value.string_value for name, value in installation.requests[-1].inputs.items() if value.string_value}
    assert texts == {"a": "x=y", "b": "from a file", "d": "@home", "e": "piped"}
    assert inputs["c"] == "struct_value"


@pytest.mark.parametrize(
    ("arguments", "identity", "on_expiry"),
    [
        ([], "UNSPECIFIED", "UNSPECIFIED"),
        (["--identity", "user", "--on-credential-expiry", "park"], "USER", "PARK"),
        (["--identity", "group"], "GROUP", "UNSPECIFIED"),
        (["--on-credential-expiry", "fail"], "UNSPECIFIED", "FAIL"),
        (["--on-credential-expiry", "use-group-identity"], "UNSPECIFIED", "USE_GROUP_IDENTITY"),
    ],
)
def test_whom_an_execution_acts_as_is_chosen(
    server: Server, installation: Installation, crew_file: str, arguments: list[str], identity: str, on_expiry: str
) -> None:
    result = invoke(server.address, "run", "-f", crew_file, "-i", "text=a", "--detach", *arguments)
    assert result.exit_code == 0, result.stderr
    sent = installation.requests[-1]
    assert ExecutionIdentity.Name(sent.identity) == f"EXECUTION_IDENTITY_{identity}"
    assert OnCredentialExpiry.Name(sent.on_credential_expiry) == f"ON_CREDENTIAL_EXPIRY_{on_expiry}"


async def test_only_who_may_lets_an_execution_go_on_as_the_group(run: Run, crew_file: str) -> None:
    await run("apply", "-f", crew_file)
    command = ["run", "brief", "-i", "text=a", "--detach", "--on-credential-expiry", "use-group-identity"]
    assert (await run(*command)).exit_code == 0
    refused = await run(*command, token="dev:carol:sales=operator")
    assert refused.exit_code == 10 + 7
    assert "EDITOR" in refused.stderr


def test_an_interrupted_watch_says_how_to_go_on(server: Server, installation: Installation) -> None:
    installation.emit(*EVENTS)
    environment = {**os.environ, "COXSWAIN_ADDRESS": server.address, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, "watch", "e"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "started by Reader" in line:
            process.send_signal(signal.SIGINT)
            break
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    # The piece of an answer behind event 2 may have come or not.
    assert re.search(r"coxswain watch e --after [23]$", said, re.MULTILINE)
    assert "Traceback" not in said


def test_a_reader_that_has_seen_enough_is_no_error(server: Server, installation: Installation) -> None:
    installation.emit(*EVENTS[:1], *(event(n, "t", llm_chunk=pb.LlmChunk(text="x" * 2000)) for n in range(2, 200)))
    installation.emit(event(200, execution_cancelled=pb.ExecutionCancelled()))
    command = f"{sys.executable} -m coxswain.client --address {server.address} watch e --json | head -1"
    result = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert json.loads(result.stdout)["sequence"] == "1"
    assert result.stderr == ""


def test_a_credential_is_renewed_with_the_token_given(server: Server, installation: Installation) -> None:
    installation.emit(*EVENTS)
    result = invoke(server.address, "renew", "e", token="fresh")
    assert (result.exit_code, result.stdout) == (0, "renewed; the execution is running\n"), result.stderr
    assert installation.requests[-1].id == "e"
    assert installation.metadata[-1]["authorization"] == "Bearer fresh"
    shown = invoke(server.address, "renew", "e", "--json", token="fresh")
    assert rows(shown)[0]["id"] == "e"


def test_a_watch_says_that_its_connection_was_lost(server: Server, installation: Installation) -> None:
    def gone(context: Any) -> None:
        refuse(context, grpc.StatusCode.UNAVAILABLE, "gone")

    installation.emit(
        pb.ExecutionEvent(sequence=1, execution_started=pb.ExecutionStarted()),
        pb.ExecutionEvent(sequence=2, execution_succeeded=pb.ExecutionSucceeded()),
    )
    installation.watch_breaks_after = [(1, gone), (0, gone)]
    watched = invoke(server.address, "watch", "e")
    assert watched.exit_code == 0
    said = [line for line in watched.stderr.splitlines() if line]
    assert re.fullmatch(r"the connection was lost at [\d:]{8} UTC \(UNAVAILABLE\); reconnecting", said[1])
    assert re.fullmatch(r"reconnected after \d+ s", said[2])
    assert len(said) == 4
