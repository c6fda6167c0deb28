"""resume, fork and compare against real services; no worker takes the executions."""

import asyncio
import io

import pytest
from rich.console import Console

from coxswain.client.blocking import Client
from coxswain.client.cli.continuing import show_comparison
from coxswain.client.cli.session import Session
from coxswain.client.errors import FailedPrecondition
from coxswain.orchestrator.v1 import execution_pb2 as pb
from tests.integration.client.command_line import Run, rows
from tests.support.harness import ALICE

TEXT = ("-i", "text=The lamp burns.")


async def cancelled(run: Run, crew_file: str) -> str:
    """An execution of "brief" that was cancelled before it began."""
    (started,) = rows(await run("run", "-f", crew_file, *TEXT, "--detach", "--json"))
    await run("cancel", started["id"])
    return str(started["id"])


@pytest.mark.parametrize("command", ["resume", "fork"])
async def test_an_execution_is_continued_with_what_is_to_be_different(run: Run, crew_file: str, command: str) -> None:
    ended = await cancelled(run, crew_file)
    changes = ("--model", "offline/extract", "-i", "text=Another lamp.", "--from", "extract", "--label", "try=2")
    asked = (command, ended, *changes, "--within", "90", "--request-id", "r", "--detach", "--json")
    (made,) = rows(await run(*asked))
    assert (made["resumed_from"], made["forked_from_task"], made["model"]) == (ended, "extract", "offline/extract")
    assert (made["inputs"], made["labels"], made["timeout"]) == ({"text": "Another lamp."}, {"try": "2"}, "90s")
    assert rows(await run(*asked))[0]["id"] == made["id"]
    (again,) = rows(await run(command, ended, "--detach", "--json"))
    assert "model" not in again
    shown = await run("get", made["id"])
    assert "extract" in next(line for line in shown.stdout.splitlines() if line.startswith("from task"))


# A limit on cost asks for a price.
PRICED = (*TEXT, "--model", "openai/gpt-4.1")
LIMITS = ("--max-cost", "0.5", "--max-tokens", "40000", "--max-model-calls", "20", "--max-tool-calls", "3")
EACH = {"max_cost": 0.5, "max_tokens": "40000", "max_model_calls": "20", "max_tool_calls": "3"}


async def test_limits_are_set_kept_and_changed(run: Run, crew_file: str) -> None:
    await run("secret", "put", "llm/openai", "--origin", "https://api.openai.com", stdin="key")
    (started,) = rows(await run("run", "-f", crew_file, *PRICED, *LIMITS, "--detach", "--json"))
    assert started["limits"] == EACH
    shown = (await run("get", started["id"])).stdout.splitlines()
    said = next(line for line in shown if line.startswith("limits"))
    assert said.split(maxsplit=1)[1].strip() == "$0.5, 40,000 tokens, 20 model calls, 3 tool calls"
    await run("cancel", started["id"])
    for command in ("resume", "fork"):
        (kept,) = rows(await run(command, started["id"], *TEXT, "--detach", "--json"))
        assert kept["limits"] == EACH
        (other,) = rows(await run(command, started["id"], "--max-tokens", "50000", "--detach", "--json"))
        assert other["limits"] == {"max_tokens": "50000"}


async def test_an_execution_without_limits_shows_none(run: Run, crew_file: str) -> None:
    ended = await cancelled(run, crew_file)
    assert "limits" not in (await run("get", ended)).stdout
    refused = await run("fork", ended, "--max-cost", "0")
    assert refused.exit_code == 13
    assert "--max-cost" in refused.stderr


async def test_faults_of_changes_are_told_in_words(run: Run, crew_file: str) -> None:
    ended = await cancelled(run, crew_file)
    wrong = await run("fork", ended, "--from", "extrakt")
    assert wrong.exit_code == 13
    assert "extrakt" in wrong.stderr
    assert "its tasks are: extract" in wrong.stderr
    missing = await run("resume", ended, "--revision", "7")
    assert missing.exit_code == 15
    assert "revision 7" in missing.stderr


async def test_executions_are_compared(run: Run, crew_file: str) -> None:
    first = await cancelled(run, crew_file)
    (second,) = rows(await run("fork", first, "-i", "text=Another lamp.", "--detach", "--json"))
    shown = (await run("compare", first, second["id"])).stdout
    assert "different: state, inputs.text" in shown
    assert '"The lamp burns."' in shown
    assert '"Another lamp."' in shown
    assert "extract: other definition or inputs" in shown
    assert "(cancelled)" in shown
    (compared,) = rows(await run("compare", first, second["id"], "--json"))
    assert [execution["id"] for execution in compared["executions"]] == [first, second["id"]]
    lonely = await run("compare", first)
    assert lonely.exit_code == 13
    assert "ID ID..." in lonely.stderr


async def test_the_client_continues_and_compares(run: Run, crew_file: str) -> None:
    ended = await cancelled(run, crew_file)

    def call() -> None:
        with Client(run.address, token=ALICE) as client:
            resumed = client.resume(ended, {"text": "Other."}, model="offline/extract", timeout=5, labels={"a": "b"})
            assert (resumed.model, resumed.timeout.seconds, resumed.labels["a"]) == ("offline/extract", 5, "b")
            with pytest.raises(FailedPrecondition) as refused:
                client.fork(resumed.id)
            assert refused.value.reason == "EXECUTION_STATE"
            forked = client.fork(ended, crew_revision=0, from_task="extract")
            compared = client.compare([resumed.id, forked.id])
            assert [execution.id for execution in compared.executions] == [resumed.id, forked.id]
            assert [task.task_name for task in compared.tasks] == ["extract"]

    await asyncio.to_thread(call)


def test_a_comparison_fits_a_terminal_of_80_columns() -> None:
    executions = [
        pb.Execution(
            id=f"01a20694-1f86-7c54-8594-1ba93020239{number}",
            crew_name="letters of the keeper",
            crew_revision=number,
            model="openai/gpt-4o-mini",
            state=pb.EXECUTION_STATE_SUCCEEDED,
        )
        for number in range(3)
    ]
    task = pb.TaskRun(output=pb.TaskOutput(text="The keeper of the light " * 10))
    task.usage.llm_calls, task.usage.input_tokens, task.usage.cost = 12, 1234567, 12.5
    task.start_time.FromSeconds(0)
    task.end_time.FromSeconds(1234)
    results = [pb.ComparedTask(task=task, cut=True), pb.ComparedTask(), pb.ComparedTask(task=pb.TaskRun(copied=True))]
    compared = pb.CompareExecutionsResponse(
        executions=executions,
        differing_fields=["model", "inputs.text"],
        inputs=[pb.InputComparison(name="text", values=[pb.ComparedInput(value_json='"' + "lamp " * 40 + '"')] * 3)],
        tasks=[pb.TaskComparison(task_name="write the letter", same_definition=True, results=results)],
    )
    out = io.StringIO()
    show_comparison(Session(out=Console(file=out, width=80)), compared)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert all(any(execution.id in line for line in lines) for execution in executions)
    assert any("12  1,234,567  12.5000   1234.0  The keeper" in line for line in lines), out.getvalue()
    assert any("(no such task)" in line for line in lines)
