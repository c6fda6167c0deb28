"""Crews: CPU and wall of an execution beside bare CrewAI, start to first event, throughput, takeover, an idle host.

One worker host and an LLM emulator on this machine. CPU of an execution is that of the host, its fork server and the
crew process together, beyond what an idle host uses; the services it calls are not counted, as bare CrewAI has none.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from coxswain.orchestrator.v1 import crew_pb2, execution_pb2
from services.common.settings import CommonSettings
from services.orchestrator.worker.host.crew_environment import crew_environment
from services.orchestrator.worker.settings import WorkerSettings
from tests.integration.worker.installation import CAPABLE, Installation, WorkerProcess, install, is_kind
from tests.support.llm_script import Reply

EXECUTIONS = 20
IDLE_SECONDS = 15
LLM_SECONDS = 0.05
SLOW_LLM_SECONDS = 1.0
WAVES = 5
_DEFAULTS = {
    name: WorkerSettings.model_fields[f"{name.lower()}_seconds"].default for name in ("LEASE", "HEARTBEAT", "SWEEP")
}

_BARE = """
import json, sys, time
from crewai import Agent, Crew, Task
from crewai.llms.base_llm import BaseLLM

class Scripted(BaseLLM):
    def call(self, messages, **_):
        time.sleep(float(sys.argv[1]))
        return "An answer."
    def supports_function_calling(self):
        return False
    def get_context_window_size(self):
        return 100_000

def run(tasks):
    llm = Scripted(model="scripted")
    agent = Agent(role="Reader", goal="Read closely", backstory="", llm=llm)
    Crew(agents=[agent], tasks=[
        Task(description=f"Do thing {n}.", expected_output="Words", agent=agent) for n in range(tasks)
    ]).kickoff()

tasks, times = int(sys.argv[2]), int(sys.argv[3])
run(tasks)
cpu, wall = time.process_time(), []
for _ in range(times):
    began = time.perf_counter()
    run(tasks)
    wall.append(time.perf_counter() - began)
print(json.dumps({"cpu": (time.process_time() - cpu) / times, "wall": sorted(wall)[len(wall) // 2]}))
"""


def bare(latency: float, tasks: int, times: int, data_dir: Path) -> dict[str, float]:
    """Run crews in a process of CrewAI alone; seconds of CPU and the median wall of one."""
    environment = crew_environment(data_dir)
    Path(environment["HOME"]).mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", _BARE, str(latency), str(tasks), str(times)],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def cpu_of(worker: WorkerProcess) -> float:
    """Seconds of CPU a host, its fork server and its crew processes have used."""
    host = psutil.Process(worker.pid)
    total = sum(host.cpu_times()[:2])
    for child in host.children():
        times = child.cpu_times()
        # Crew processes are the fork server's children; the times of those that ended are kept there.
        total += times.user + times.system + times.children_user + times.children_system
    return total


def crew(tasks: int) -> crew_pb2.CrewSpec:
    return crew_pb2.CrewSpec(
        name="bench",
        model=CAPABLE,
        agents=[crew_pb2.AgentSpec(name="reader", role="Reader", goal="Read closely")],
        tasks=[
            crew_pb2.TaskSpec(name=f"t{n}", description=f"Do thing {n}.", expected_output="Words", agent="reader")
            for n in range(tasks)
        ],
    )


async def once(installation: Installation, crew_id: str) -> tuple[float, float]:
    """Run an execution; seconds from the start's answer to the first event of a worker, and to the end."""
    began = time.perf_counter()
    request = execution_pb2.StartExecutionRequest(crew_id=crew_id)
    started = await installation.executions().StartExecution(request)
    first = 0.0

    def saw(event: Any) -> bool:
        nonlocal first
        if not first and is_kind("execution_started")(event):
            first = time.perf_counter() - began
        return False

    await installation.watch(started.execution.id, saw)
    return first, time.perf_counter() - began


async def repeated(installation: Installation, tasks: int, times: int) -> tuple[str, list[tuple[float, float]]]:
    first = await installation.start(crew(tasks))
    await installation.finished(first.id)
    return first.crew_id, [await once(installation, first.crew_id) for _ in range(times)]


async def measure(data_dir: Path) -> list[str]:
    lines: list[str] = []
    async with install(data_dir, COXSWAIN_LOG_LEVEL="WARNING") as installation:
        began = time.perf_counter()
        worker = await installation.worker()
        lines.append(f"worker host warm after {time.perf_counter() - began:.1f} s")
        before = cpu_of(worker)
        await asyncio.sleep(IDLE_SECONDS)
        idle = (cpu_of(worker) - before) / IDLE_SECONDS
        lines.append(f"idle worker host: {idle:.1%} of a core (goal < 5 %)")

        installation.llm.on(Reply(text="An answer."))
        await repeated(installation, 1, 2)
        before, began = cpu_of(worker), time.perf_counter()
        _, runs = await repeated(installation, 1, EXECUTIONS)
        used = cpu_of(worker) - before - idle * (time.perf_counter() - began)
        own = used / (EXECUTIONS + 1)
        alone = bare(0, 1, EXECUTIONS, data_dir)
        lines.append(
            f"one-task crew, instant model: {own * 1000:.0f} ms CPU, bare CrewAI {alone['cpu'] * 1000:.0f} ms: "
            f"{own / alone['cpu']:.1f} x (goal <= 1.8)"
        )
        lines.append(f"start to first event: {_spread([first for first, _ in runs])} (goal < 80 ms)")
        lines.append(f"one-task crew, start to end: {_spread([wall for _, wall in runs])}")

        installation.llm.clear_rules()
        installation.llm.on(Reply(text="An answer.", latency_s=LLM_SECONDS))
        _, runs = await repeated(installation, 3, EXECUTIONS // 2)
        running = [wall - first for first, wall in runs]
        three = bare(LLM_SECONDS, 3, EXECUTIONS // 2, data_dir)
        lines.append(
            f"three-task crew, 50 ms model: {_spread(running)} from its first event, bare CrewAI "
            f"{three['wall'] * 1000:.0f} ms: {statistics.median(running) / three['wall']:.1f} x (goal <= 1.5)"
        )
    return lines


async def measure_hosts(data_dir: Path) -> list[str]:
    """Two hosts with the settings they have by default: takeover, and throughput while models are slow."""
    defaults = {f"COXSWAIN_WORKER_{name}_SECONDS": str(value) for name, value in _DEFAULTS.items()}
    async with install(data_dir, **defaults) as installation:
        await installation.hosts(2)
        installation.llm.on(Reply(text="An answer.", latency_s=SLOW_LLM_SECONDS))
        first = await installation.start(crew(1))
        await installation.finished(first.id)
        slots = 2 * WorkerSettings().slots
        began = time.perf_counter()
        await asyncio.gather(*(once(installation, first.crew_id) for _ in range(slots * WAVES)))
        share = WAVES * SLOW_LLM_SECONDS / (time.perf_counter() - began)
        what = f"{slots * WAVES} crews, {SLOW_LLM_SECONDS:.0f} s model, 2 hosts of {slots // 2} slots"
        lines = [f"{what}: {share:.2f} of the ideal throughput (goal >= 0.85 until CPU is short)"]

        installation.llm.clear_rules()
        installation.llm.on(Reply(text="An answer.", hang=True), times=1)
        installation.llm.on(Reply(text="An answer."))
        execution = await installation.start(crew(1))
        await installation.llm.wait_for_calls(1, hanging=True)
        victim = await installation.holder()
        began = time.perf_counter()
        victim.kill()
        await installation.watch(
            execution.id, lambda event: is_kind("execution_started")(event) and event.execution_started.takeover
        )
        lines.append(f"takeover after kill -9: {time.perf_counter() - began:.1f} s (goal < 10 s)")
    return lines


def _spread(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    return f"p50 {statistics.median(ordered) * 1000:.0f} ms, max {ordered[-1] * 1000:.0f} ms"


def main() -> None:
    CommonSettings()  # refuses a broken environment before anything starts
    with tempfile.TemporaryDirectory(prefix="coxswain-bench-") as directory:
        for part in (measure, measure_hosts):
            data_dir = Path(directory) / part.__name__
            data_dir.mkdir()
            for line in asyncio.run(part(data_dir)):
                print(line, flush=True)


if __name__ == "__main__":
    main()
