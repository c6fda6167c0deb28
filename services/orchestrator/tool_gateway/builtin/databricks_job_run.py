"""Runs a job of Databricks."""

import json
from typing import Any, TypeGuard
from urllib.parse import quote

from services.orchestrator.tool_gateway.builtin.databricks.statements import to_text
from services.orchestrator.tool_gateway.builtin.databricks.workspace import (
    Declined,
    Json,
    Workspace,
    Workspaces,
    text_of,
)
from services.orchestrator.tool_gateway.ports import CallProgress, OutcomeUnknown, ToolCallRequest, ToolResult

API = "/api/2.2/jobs"
_LAST_STATES = frozenset({"TERMINATED", "SKIPPED", "INTERNAL_ERROR"})
_MAX_TEXT = 64 * 1024
_MAX_PAGES = 20


class DatabricksJobRun:
    """`databricks_job_run`. The id of the call is the run's idempotency token: repeating it finds the same run."""

    def __init__(self, workspaces: Workspaces) -> None:
        self._workspaces = workspaces

    async def call(self, request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        """Run the job, wait for its end and return the output of its last task; see `ToolAdapter`."""
        workspace = await self._workspaces.open(request)
        body: Json = {"job_id": int(request.config["job_id"]), "idempotency_token": request.call_id[:64]}
        parameters = request.arguments.get("parameters") or {}
        if parameters:
            body["job_parameters"] = {name: _parameter(value) for name, value in parameters.items()}
        try:
            answer = await workspace.begin(f"{API}/run-now", body, progress)
        except Declined as error:
            return ToolResult(str(error), is_error=True)
        run_id = answer.get("run_id")
        if not _is_run(run_id):
            raise OutcomeUnknown("the workspace took the run, but gave no id of it")
        await progress.handle(str(run_id))
        return await _follow(workspace, str(run_id), progress)

    async def resume(self, request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
        """Wait for a run by its id, or find it by its token; see `ToolAdapter`."""
        if not handle:
            return await self.call(request, progress)
        return await _follow(await self._workspaces.open(request), handle, progress)


async def _follow(workspace: Workspace, run_id: str, progress: CallProgress) -> ToolResult:
    path = f"{API}/runs/get?run_id={quote(run_id, safe='')}"

    async def cancel() -> None:
        await workspace.tell(f"{API}/runs/cancel", {"run_id": int(run_id)})

    try:
        run = await workspace.watch(path, progress, _state, cancel)
        tasks, complete = await _tasks(workspace, path, run)
        output = await _output(workspace, tasks, progress)
    except Declined as error:
        raise OutcomeUnknown(f"the workspace does not say what became of run {run_id}: {error}", final=True) from error
    result: Json = {
        "run_id": int(run_id),
        "state": _outcome(run),
        "message": str(_part(run, "state").get("state_message") or "")[:4096],
        "run_page_url": str(run.get("run_page_url") or ""),
        "tasks": [{"task": task.get("task_key"), "state": _outcome(task)} for task in tasks],
        **({} if complete else {"tasks_incomplete": True}),
        **output,
    }
    failed = result["state"] not in ("SUCCESS", "SUCCESS_WITH_FAILURES")
    return ToolResult(to_text(result), structured=result, is_error=failed)


async def _tasks(workspace: Workspace, path: str, run: Json) -> tuple[list[Json], bool]:
    """Return the tasks of a run, and whether these are all."""
    found: list[Json] = []
    passed: set[str] = set()
    while True:
        tasks = run.get("tasks")
        found += [task for task in tasks if isinstance(task, dict)] if isinstance(tasks, list) else []
        token = run.get("next_page_token")
        if not isinstance(token, str) or not token:
            return found, True
        if token in passed or len(passed) == _MAX_PAGES:
            return found, False
        passed.add(token)
        run = await workspace.ask(f"{path}&page_token={quote(token, safe='')}")


async def _output(workspace: Workspace, tasks: list[Json], progress: CallProgress) -> Json:
    """Return what the task gave that ended last."""
    ended = [task for task in tasks if _is_run(task.get("run_id"))]
    if not ended:
        return {}
    last = max(ended, key=lambda task: (_number(task.get("end_time")), _number(task.get("start_time"))))
    try:
        found = await workspace.ask(f"{API}/runs/get-output?run_id={last['run_id']}", progress)
    except Declined as error:
        return {"output_error": str(error)}
    output: Json = {"output_of": last.get("task_key")}
    notebook = _part(found, "notebook_output")
    if notebook:
        output["output"] = _cut(notebook.get("result"))
        output["truncated"] = notebook.get("truncated") is True
    for name in ("logs", "error", "sql_output", "dbt_output", "run_job_output"):
        if found.get(name):
            output[name] = _cut(found[name])
    return output


def _state(run: Json) -> tuple[str, bool]:
    state = text_of(_part(run, "state").get("life_cycle_state")) or text_of(_part(run, "status").get("state"))
    return state, state in _LAST_STATES


def _outcome(run: Json) -> str:
    state = _part(run, "state")
    return str(state.get("result_state") or state.get("life_cycle_state") or _part(run, "status").get("state") or "")


def _parameter(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(value: Any) -> Any:
    return value[:_MAX_TEXT] if isinstance(value, str) else value


def _part(value: Json, name: str) -> Json:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _is_run(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
