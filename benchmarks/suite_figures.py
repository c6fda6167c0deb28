"""How fast the one-port suite starts, begins executions, cancels and takes over, and how much memory it holds.

Real processes, real gRPC, SQLite in a temporary directory, an emulated model that answers at once. Times include what
the client itself needs; all processes share this machine.
"""

import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from coxswain.client import Client
from coxswain.memory.v1.memory_pb2 import Namespace, SaveRecordsRequest, SearchRecordsRequest
from coxswain.memory.v1.record_pb2 import Record, UnifiedRecord
from coxswain.orchestrator.v1.crew_pb2 import AgentSpec, CrewSpec, TaskSpec
from coxswain.orchestrator.v1.execution_pb2 import CancelExecutionRequest, ExecutionEvent
from tests.support.child_process import descendants, is_alive
from tests.support.installation import busy_host, crew_processes, wait_until
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import Reply
from tests.support.service_processes import ServiceProcesses
from tests.support.suite_process import SuiteProcess

_MODEL = "openai/gpt-4.1-mini"
_ROUNDS = 20
_TAKEOVERS = 5
_READY = "worker_ready"
_MIB = 1024 * 1024


def crew(*tasks: str) -> CrewSpec:
    """Return a crew of one agent with tasks one after the other."""
    return CrewSpec(
        name=f"measured-{'-'.join(tasks)}",
        agents=[AgentSpec(name="worker", role="Worker", goal="Do the task")],
        tasks=[TaskSpec(name=name, description=name, expected_output="One line", agent="worker") for name in tasks],
        model=_MODEL,
    )


def milliseconds(seconds: list[float]) -> str:
    """Return the median, the smallest and the largest of some times."""
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    return f"{middle * 1000:.0f} ms (median of {len(seconds)}; {low * 1000:.0f} to {high * 1000:.0f})"


def starts(suite: SuiteProcess) -> Iterator[tuple[str, str, str]]:
    """Start the suite; yield how long that took."""
    began = time.perf_counter()
    suite.process = suite.launch()
    suite.process.wait_for_line("serving on")
    yield "process start to SERVING", f"{time.perf_counter() - began:.1f} s", "< 5 s"
    suite.process.wait_for_line("workers warm")
    yield "process start to workers warm", f"{time.perf_counter() - began:.1f} s", "< 15 s"


def executions(client: Client) -> Iterator[tuple[str, str, str]]:
    """Yield how long one-task executions take to begin and to end, one at a time on warm hosts."""
    stored = client.apply_crew(crew("say")).crew
    client.run(stored)
    acknowledged, claimed, called, ended = [], [], [], []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        execution = client.start(stored)
        acknowledged.append(time.perf_counter() - began)
        for event in client.watch(execution.id):
            moment = time.perf_counter() - began
            match event.WhichOneof("event"):
                case "execution_started":
                    claimed.append(moment)
                case "llm_call_started":
                    called.append(moment)
                case "execution_succeeded":
                    ended.append(moment)
    yield "StartExecution answered", milliseconds(acknowledged), ""
    yield "StartExecution to first event of a worker", milliseconds(claimed), "< 300 ms"
    yield "StartExecution to first model call", milliseconds(called), ""
    yield "one-task crew, whole", milliseconds(ended), ""


def cancels(client: Client, llm: LlmEmulator, suite: SuiteProcess) -> Iterator[tuple[str, str, str]]:
    """Yield how long it takes to cancel during a model call."""
    stored = client.apply_crew(crew("hang")).crew
    times, gone = [], []
    for _ in range(5):
        llm.clear_log()
        execution = client.start(stored)
        wait_until(lambda: any(call.hanging for call in llm.calls), "the model is called")
        _, process = busy_host(suite)
        began = time.perf_counter()
        client.executions.CancelExecution(CancelExecutionRequest(id=execution.id))
        _last(client, execution.id)
        times.append(time.perf_counter() - began)
        wait_until(lambda process=process: not is_alive(process), "the crew process is gone")  # type: ignore[misc]
        gone.append(time.perf_counter() - began)
    yield "CancelExecution to terminal event, in a model call", milliseconds(times), "< 2 s"
    yield "CancelExecution to crew process gone", milliseconds(gone), ""


def takeovers(client: Client, llm: LlmEmulator, suite: SuiteProcess) -> Iterator[tuple[str, str, str]]:
    """Yield how long it takes another host to go on after SIGKILL of the one at work, in the second of two tasks."""
    stored = client.apply_crew(crew("say", "hang")).crew
    claims, ends = [], []
    for _ in range(_TAKEOVERS):
        llm.clear_log()
        execution = client.start(stored)
        wait_until(lambda: any(call.hanging for call in llm.calls), "the model is called")
        host, _ = busy_host(suite)
        ready = suite.logs.count(_READY)
        began = time.perf_counter()
        host.send_signal(signal.SIGKILL)
        for event in client.watch(execution.id):
            if event.HasField("execution_started") and event.execution_started.takeover:
                claims.append(time.perf_counter() - began)
                wait_until(lambda: len(llm.calls_where(route="chat")) == 3, "the task is begun again")
                ends.append(time.perf_counter() - began)
                client.executions.CancelExecution(CancelExecutionRequest(id=execution.id))
        # Without a second host that takes executions, the next takeover would wait for one to start.
        wait_until(lambda ready=ready: suite.logs.count(_READY) > ready, "all hosts are warm", 120)  # type: ignore[misc]
    yield "kill -9 of a host to takeover event", milliseconds(claims), "< 2 s"
    yield "kill -9 of a host to model call of the task begun again", milliseconds(ends), ""


def _size(process: psutil.Process) -> str:
    figures = process.memory_full_info()
    return f"{figures.rss / _MIB:.0f} MiB resident, {figures.pss / _MIB:.0f} proportional"


def _last(client: Client, execution_id: str) -> ExecutionEvent:
    return list(client.watch(execution_id))[-1]


def memory(suite: SuiteProcess) -> Iterator[tuple[str, str, str]]:
    """Yield what each process holds. Proportional size shares what several processes have in common."""
    assert suite.process is not None
    hosts = suite.worker_hosts()
    rows = [("suite: auth, models, memory, orchestrator", psutil.Process(suite.process.pid))]
    rows += [(f"worker host {number}", host) for number, host in enumerate(hosts, 1)]
    servers = [child for host in hosts for child in host.children() if is_alive(child)]
    rows += [(f"fork server {number}", server) for number, server in enumerate(servers, 1)]
    for name, process in rows:
        yield f"memory of {name}", _size(process), ""
    below = [process for process in descendants(suite.process.pid) if is_alive(process)]
    total = sum(process.memory_full_info().pss for process in (psutil.Process(suite.process.pid), *below))
    yield "memory of all", f"{total / _MIB:.0f} MiB proportional", ""


def alone(directory: Path) -> Iterator[tuple[str, str, str]]:
    """Yield what each service holds in a process of its own, after it has worked."""
    with (
        ServiceProcesses(directory / "alone", "", workers=0).running() as services,
        services.caller("dev:someone:some=editor") as caller,
    ):
        namespace = Namespace(memory_id="measured")
        for number in range(100):
            record = Record(unified=UnifiedRecord(content=f"The harbour is {number} fathoms deep."))
            caller.memory.memory.SaveRecords(SaveRecordsRequest(namespace=namespace, records=[record]))
            caller.memory.memory.SearchRecords(
                SearchRecordsRequest(namespace=namespace, text="How deep is the harbour?")
            )
            caller.orchestrator.apply_crew(crew("say"))
        for name, process in services.processes().items():
            yield f"memory of {name} alone", _size(process), "< 150 MB"


def idle(suite: SuiteProcess, seconds: float = 5.0) -> Iterator[tuple[str, str, str]]:
    """Yield the share of a core that the processes use with nothing to do."""
    assert suite.process is not None
    watched = {"suite": psutil.Process(suite.process.pid)}
    watched |= {f"worker host {number}": host for number, host in enumerate(suite.worker_hosts(), 1)}
    wait_until(lambda: not any(crew_processes(host) for host in suite.worker_hosts()), "nothing runs")
    before = {name: sum(process.cpu_times()[:2]) for name, process in watched.items()}
    time.sleep(seconds)
    for name, process in watched.items():
        used = (sum(process.cpu_times()[:2]) - before[name]) / seconds
        yield f"idle {name}", f"{used * 100:.1f} % of a core", "< 5 %" if name != "suite" else ""


def figures() -> Iterator[tuple[str, str, str]]:
    """Yield what was measured, the figure and its goal, one after the other."""
    with tempfile.TemporaryDirectory(prefix="coxswain-figures-") as directory, LlmEmulator() as llm:
        llm.on(Reply(hang=True), route="chat", contains="Current Task: hang")
        llm.on(Reply(text="Said."), route="chat")
        environment = {"OPENAI_API_KEY": "sk-emulated", "OPENAI_BASE_URL": f"{llm.url}/v1"}
        suite = SuiteProcess(Path(directory) / "data", environment=environment)
        try:
            yield from starts(suite)
            with Client(suite.address("orchestrator")) as client:
                yield from executions(client)
                yield from cancels(client, llm, suite)
                yield from memory(suite)
                yield from idle(suite)
                yield from takeovers(client, llm, suite)
        finally:
            if suite.process is not None:
                suite.process.kill()
        yield from alone(Path(directory))


def main() -> None:
    """Measure and print the table."""
    load = ", ".join(f"{value:.1f}" for value in psutil.getloadavg())
    print(f"{psutil.cpu_count()} cores, load before: {load}")
    print(f"{'what':62} {'measured':46} goal")
    for what, measured, goal in figures():
        print(f"{what:62} {measured:46} {goal}", flush=True)


if __name__ == "__main__":
    main()
