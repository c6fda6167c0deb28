"""Jobs of Databricks on loopback: a run goes as a test says, and one idempotency token starts one run."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from tests.support.databricks_http import (
    Authenticate,
    Caller,
    DatabricksEmulator,
    DatabricksError,
    Exchange,
    JsonObject,
    bearer_token,
    invalid,
    json_body,
)

API = "/api/2.2/jobs"
JOB_SCOPES = ("jobs",)
_PASSING = ("RUNNING", "PENDING", "QUEUED")


@dataclass(frozen=True, slots=True)
class Job:
    """How the runs of a job go."""

    tasks: tuple[str, ...] = ("main",)
    output: str = "done"
    polls: int = 0
    life_cycle_state: str = "TERMINATED"
    result_state: str = "SUCCESS"
    message: str = ""


@dataclass(slots=True)
class Run:
    id: int
    job_id: int
    job: Job
    parameters: JsonObject
    polls_left: int
    cancelled: bool = False

    @property
    def ended(self) -> bool:
        return self.cancelled or self.polls_left <= 0


class JobEmulator(DatabricksEmulator):
    """The emulator; `runs` are all that were started."""

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        authenticate: Authenticate | None = None,
        record: bool = True,
        control_prefix: str = "/_jobs",
    ) -> None:
        super().__init__(host=host, port=port, control_prefix=control_prefix, record=record)
        self._authenticate = authenticate or (lambda headers: Caller(bearer_token(headers)))
        self._jobs: dict[int, Job] = {}
        self._tokens: dict[str, int] = {}
        self._ids = itertools.count(1000, 10)
        self.runs: dict[int, Run] = {}

    def add_job(self, job_id: int, **changes: Any) -> None:
        self._jobs[job_id] = replace(Job(), **changes)

    def install(self, app: web.Application) -> None:
        app.add_routes(
            [
                self.api("POST", f"{API}/run-now", self._run_now),
                self.api("GET", f"{API}/runs/get", self._get),
                self.api("GET", f"{API}/runs/get-output", self._output),
                self.api("POST", f"{API}/runs/cancel", self._cancel),
                *self.control_routes(),
            ]
        )

    def check_request(self, exchange: Exchange) -> None:
        caller = self._authenticate(exchange.headers)
        exchange.caller = caller.user_name
        if not caller.may(*JOB_SCOPES):
            raise DatabricksError(403, "PERMISSION_DENIED", "Invalid scope: the token has no scope for jobs")

    def _run_now(self, exchange: Exchange, _: web.Request) -> JsonObject:
        body = json_body(exchange)
        job = self._jobs.get(body.get("job_id") or 0)
        if job is None:
            raise DatabricksError(400, "INVALID_PARAMETER_VALUE", f"Job {body.get('job_id')} does not exist.")
        token = body.get("idempotency_token")
        if token is not None and (not isinstance(token, str) or len(token) > 64):
            raise invalid("idempotency_token must have at most 64 characters")
        parameters = body.get("job_parameters") or {}
        if not all(isinstance(value, str) for value in parameters.values()):
            raise invalid("job_parameters must be strings")
        if token and token in self._tokens:
            return {"run_id": self._tokens[token], "number_in_job": self._tokens[token]}
        run = Run(next(self._ids), int(body["job_id"]), job, parameters, job.polls)
        self.runs[run.id] = run
        if token:
            self._tokens[token] = run.id
        return {"run_id": run.id, "number_in_job": run.id}

    def _get(self, _: Exchange, request: web.Request) -> JsonObject:
        run = self._run(request.query.get("run_id"))
        described = _described(run)
        run.polls_left = max(0, run.polls_left - 1)
        return described

    def _output(self, _: Exchange, request: web.Request) -> JsonObject:
        task_run = request.query.get("run_id", "")
        for run in self.runs.values():
            for place, task in enumerate(run.job.tasks):
                if str(run.id + place + 1) == task_run:
                    result = f"{run.job.output} ({task})"
                    return {"notebook_output": {"result": result, "truncated": False}, "metadata": _described(run)}
        raise DatabricksError(400, "INVALID_PARAMETER_VALUE", f"Run {task_run} does not exist.")

    def _cancel(self, exchange: Exchange, _: web.Request) -> JsonObject:
        self._run(json_body(exchange).get("run_id")).cancelled = True
        return {}

    def _run(self, given: object) -> Run:
        run = self.runs.get(int(str(given))) if str(given).isdigit() else None
        if run is None:
            raise DatabricksError(400, "INVALID_PARAMETER_VALUE", f"Run {given} does not exist.")
        return run


def _described(run: Run) -> JsonObject:
    state = _state(run)
    return {
        "run_id": run.id,
        "job_id": run.job_id,
        "run_page_url": f"https://workspace.example.com/jobs/{run.job_id}/runs/{run.id}",
        "state": state,
        "tasks": [
            {"run_id": run.id + place + 1, "task_key": task, "state": state, "start_time": place, "end_time": place + 1}
            for place, task in enumerate(run.job.tasks)
        ],
    }


def _state(run: Run) -> JsonObject:
    if run.cancelled:
        return {"life_cycle_state": "TERMINATED", "result_state": "CANCELED", "state_message": "cancelled"}
    if not run.ended:
        return {"life_cycle_state": _PASSING[min(run.polls_left, 3) - 1], "state_message": ""}
    return {
        "life_cycle_state": run.job.life_cycle_state,
        "result_state": run.job.result_state,
        "state_message": run.job.message,
    }
