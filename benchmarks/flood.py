"""What one tenant's floods cost another: p99 of the other's calls beside its quiet p99, and its failed calls.

The suite in a process of its own, on SQLite and on PostgreSQL, without worker hosts: those are other machines' work.
The flooder is a process of its own at niceness 5, as its own work, which is not the product's, should weigh little on a
machine that both share; the share of a core that it got is printed. The quiet tenant makes one call after the other,
with pauses. What a call took by the clock holds also what its own client and other work on the machine waited for; the
processor time that the server used within it does not, and is printed beside it. Each flood is measured beside a quiet
time just before it. `--kinds calls streams` chooses, `--seconds` says how long.
"""

import argparse
import asyncio
import multiprocessing
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import uvloop

from benchmarks import flooding
from benchmarks.flooding import FLOODS, Server
from benchmarks.suite_figures import crew
from coxswain.auth.v1 import principal_pb2
from coxswain.client import Client
from coxswain.memory.v1 import memory_pb2, record_pb2
from coxswain.models.v1 import model_pb2
from coxswain.orchestrator.v1 import execution_pb2
from tests.support.llm_emulator import LlmEmulator
from tests.support.llm_script import Reply
from tests.support.suite_process import SuiteProcess

_QUIET_TOKEN = "dev:ann:quiet=editor"
_QUIET = (("authorization", f"Bearer {_QUIET_TOKEN}"),)
_LOUD_TOKEN = "dev:eve:loud=editor"
_PAUSE_SECONDS = 0.005
_CALL_SECONDS = 30.0
_GOAL = 2.0


@dataclass
class Times:
    """What the calls of the quiet tenant took."""

    milliseconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failures: Counter[str] = field(default_factory=Counter)
    processor_milliseconds: list[float] = field(default_factory=list)
    """What the server used within each call, for whomever."""

    def of(self, name: str) -> list[float]:
        """Return the times of one method, or with "" of all."""
        return self.milliseconds[name] if name else [each for times in self.milliseconds.values() for each in times]

    def p(self, percent: int, name: str = "") -> float:
        """Return the time that so many of 100 calls kept within."""
        return _percentile(self.of(name), percent)

    def processor_p99(self) -> float:
        """Return the processor time of the server that 99 of 100 calls kept within."""
        return _percentile(self.processor_milliseconds, 99)


def _percentile(times: Sequence[float], percent: int) -> float:
    ordered = sorted(times) or [float("nan")]
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def processor_clock(pid: int) -> Callable[[], float]:
    """Return a clock of the processor time of a process, in seconds; psutil's has steps of 10 ms."""
    # See clock_getcpuclockid(3): Linux makes the number of the clock from that of the process.
    clock = ~pid << 3 | 2
    return lambda: time.clock_gettime(clock)


def quiet_calls(server: Server) -> dict[str, Callable[[], Awaitable[object]]]:
    """Return what the quiet tenant does, over and over."""
    namespace = memory_pb2.Namespace(memory_id="quiet")
    who, models = principal_pb2.WhoAmIRequest(), model_pb2.ListModelsRequest()
    search = memory_pb2.SearchRecordsRequest(namespace=namespace, text="How deep is the harbour?")
    get = execution_pb2.GetExecutionRequest(id=server.execution_id)
    start = execution_pb2.StartExecutionRequest(crew_id=server.crew_id)
    given: dict[str, Any] = {"metadata": _QUIET, "timeout": _CALL_SECONDS}
    return {
        "WhoAmI": lambda: server.auth.WhoAmI(who, **given),
        "ListModels": lambda: server.models.ListModels(models, **given),
        "SearchRecords": lambda: server.memory.SearchRecords(search, **given),
        "GetExecution": lambda: server.executions.GetExecution(get, **given),
        "StartExecution": lambda: server.executions.StartExecution(start, **given),
    }


async def measure(
    calls: dict[str, Callable[[], Awaitable[object]]], seconds: float, processor: Callable[[], float]
) -> Times:
    """Make the quiet tenant's calls for a while."""
    times, end = Times(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, call in calls.items():
            began, used = time.perf_counter(), processor()
            try:
                await call()
            except grpc.aio.AioRpcError as error:
                times.failures[f"{name} {error.code().name}"] += 1
            times.milliseconds[name].append((time.perf_counter() - began) * 1000)
            times.processor_milliseconds.append((processor() - used) * 1000)
            await asyncio.sleep(_PAUSE_SECONDS)
    return times


async def prepare(address: str, port: int) -> tuple[Server, Server]:
    """Store what both tenants need; return the quiet one's server and the loud one's."""
    servers = []
    for token in (_QUIET_TOKEN, _LOUD_TOKEN):
        with Client(address, token=token) as client:
            stored = await asyncio.to_thread(client.apply_crew, crew("say"))
            execution = await asyncio.to_thread(client.start, stored.crew)
        servers.append(Server(port, execution.id, stored.crew.id))
    quiet, loud = servers
    record = record_pb2.Record(unified=record_pb2.UnifiedRecord(content="The harbour is 9 fathoms deep."))
    save = memory_pb2.SaveRecordsRequest(namespace=memory_pb2.Namespace(memory_id="quiet"), records=[record])
    await quiet.memory.SaveRecords(save, metadata=_QUIET)
    await flooding.fill(loud)
    return quiet, loud


async def flooded(suite: SuiteProcess, kinds: Sequence[str], seconds: float) -> None:
    """Measure and print a line for each kind of flood."""
    quiet, loud = await prepare(suite.address("auth"), suite.port)
    calls = quiet_calls(quiet)
    context = multiprocessing.get_context("spawn")
    assert suite.process is not None
    server, processor = psutil.Process(suite.process.pid), processor_clock(suite.process.pid)
    await measure(calls, 2, processor)
    for kind in kinds:
        before = await measure(calls, seconds, processor)
        ours, theirs = context.Pipe()
        arguments = (kind, suite.port, loud.execution_id, loud.crew_id, theirs)
        flooder = context.Process(target=flooding.run, args=arguments, daemon=True)
        flooder.start()
        await asyncio.to_thread(ours.recv)
        used, began = processor(), time.perf_counter()
        during = await measure(calls, seconds, processor)
        elapsed = time.perf_counter() - began
        share = (processor() - used) / elapsed
        memory = server.memory_info().rss // 2**20
        ours.send(None)
        outcomes, cpu = await asyncio.to_thread(ours.recv)
        flooder.terminate()
        flooder.join()
        print(line(kind, before, during, outcomes, share, cpu / elapsed, memory), flush=True)
        await measure(calls, 2, processor)


def line(
    kind: str, before: Times, during: Times, outcomes: dict[str, int], server: float, flooder: float, memory: int
) -> str:
    """Return what one flood cost, in words and figures."""
    ratio = during.p(99) / before.p(99)
    failed = sum(during.failures.values())
    told = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items()))
    each = ", ".join(f"{name} {during.p(99, name) / before.p(99, name):.1f}" for name in during.milliseconds)
    verdict = "" if ratio <= _GOAL and not failed else "  <- over the goal"
    return (
        f"{kind:15} p50 {before.p(50):6.1f} {during.p(50):6.1f}  p99 {before.p(99):7.1f} {during.p(99):7.1f}  "
        f"ratio {ratio:5.1f}  failed {failed} of {len(during.of(''))}{verdict}\n"
        f"{'':15} p99 of the server's processor time within a call: {before.processor_p99():.1f} "
        f"{during.processor_p99():.1f}; p99 of each by the clock: {each}\n"
        f"{'':15} {FLOODS[kind].what}: {told}; cores: server {server:.2f}, flooder {flooder:.2f}; "
        f"the server has {memory} MiB" + (f"\n{'':15} failures: {dict(during.failures)}" if failed else "")
    )


def run(database: str, kinds: Sequence[str], seconds: float) -> None:
    """Measure on one database."""
    load = ", ".join(f"{value:.1f}" for value in psutil.getloadavg())
    print(f"== {database}; {psutil.cpu_count()} cores, load before: {load}; milliseconds, quiet and flooded")
    arguments = ("--db", "postgres") if database == "postgresql" else ()
    with tempfile.TemporaryDirectory(prefix="coxswain-flood-") as directory, LlmEmulator() as llm:
        llm.on(Reply(hang=True), route="chat")
        environment = {"OPENAI_API_KEY": "sk-emulated", "OPENAI_BASE_URL": f"{llm.url}/v1"}
        suite = SuiteProcess(Path(directory) / "data", workers=0, arguments=arguments, environment=environment)
        with suite.running():
            uvloop.run(flooded(suite, kinds, seconds))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood")
    parser.add_argument("--databases", nargs="+", choices=["sqlite", "postgresql"], default=["sqlite", "postgresql"])
    parser.add_argument("--kinds", nargs="+", choices=list(FLOODS), default=list(FLOODS))
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each is measured (default: 8)")
    arguments = parser.parse_args()
    for database in arguments.databases:
        run(database, arguments.kinds, arguments.seconds)


if __name__ == "__main__":
    main()
