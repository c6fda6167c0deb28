"""An idle installation on PostgreSQL: commits and statements per second by their SQL, CPU, memory and connections.

Every service once, the orchestrator twice, a tool gateway and worker hosts, each a process of its own with the default
settings. Then executions are started one by one, with pauses: seconds from the start to its first event.
"""

import argparse
import asyncio
import collections
import re
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import asyncpg
import psutil
from pgserver.postgres_server import get_server

from benchmarks.statements import Log, prepare
from coxswain.orchestrator.v1 import crew_pb2, execution_pb2
from tests.support.service_processes import ServiceProcesses

_SETTLING_SECONDS = 20
_STARTS = 15
_PAUSE_SECONDS = 3.3
_VALUES = re.compile(r"\$\d+(?:::\w+(?:\(\d+\))?)?|'[^']*'(?:::\w+)?|\b\d+(?:\.\d+)?\b")


def shape(statement: str) -> str:
    """Return a statement without what differs between two of its kind."""
    return re.sub(r"\((?:\?(?:, )?)+\)", "(?)", _VALUES.sub("?", statement))


async def _commits(url: str) -> tuple[int, int]:
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow(
            "SELECT xact_commit, xact_rollback FROM pg_stat_database WHERE datname = current_database()"
        )
        return row["xact_commit"], row["xact_rollback"]
    finally:
        await connection.close()


def _families(installation: ServiceProcesses) -> dict[str, list[psutil.Process]]:
    """Each process with its children: a host's are its fork server and the crew processes forked ahead."""
    found = dict(installation.processes())
    found |= {f"orchestrator {n}": psutil.Process(each.pid) for n, each in enumerate(installation.replicas, 2)}
    found |= {f"host {n}": each for n, each in enumerate(installation.worker_hosts(), 1)}
    return {name: [process, *process.children(recursive=True)] for name, process in found.items()}


def _cpu(families: Mapping[str, list[psutil.Process]]) -> dict[str, list[float]]:
    return {
        name: [sum(process.cpu_times()[:2]) for process in (processes[0], *processes[1:]) if process.is_running()]
        for name, processes in families.items()
    }


def _mebibytes(processes: list[psutil.Process]) -> float:
    """What a process and its children use, with their shares of what they use together."""
    return sum(process.memory_full_info().pss for process in processes if process.is_running()) / 2**20


async def _connections(url: str) -> collections.Counter[str]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT coalesce(nullif(application_name, ''), '-') AS name, left(query, 60) AS query, count(*) AS n "
            "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() GROUP BY 1, 2"
        )
        return collections.Counter({f"{row['name']}: {row['query']}": row["n"] for row in rows})
    finally:
        await connection.close()


def _starts(installation: ServiceProcesses) -> list[float]:
    """Return the seconds from the call that starts an execution to its first event."""
    seconds = []
    with installation.caller("") as caller:
        spec = crew_pb2.CrewSpec(
            name="brief",
            model="offline/extract",
            agents=[crew_pb2.AgentSpec(name="reader", role="Reader", goal="Read")],
            tasks=[crew_pb2.TaskSpec(name="read", description="Read.", expected_output="Words", agent="reader")],
        )
        crew = caller.orchestrator.crews.CreateCrew(crew_pb2.CreateCrewRequest(spec=spec)).crew
        for _ in range(_STARTS):
            time.sleep(_PAUSE_SECONDS)
            began = time.perf_counter()
            request = execution_pb2.StartExecutionRequest(crew_id=crew.id)
            execution = caller.orchestrator.executions.StartExecution(request).execution
            watched = caller.orchestrator.executions.WatchExecution(
                execution_pb2.WatchExecutionRequest(id=execution.id)
            )
            for response in watched:
                if response.event.WhichOneof("event") == "execution_started":
                    seconds.append(time.perf_counter() - began)
    return seconds


def measure(data_dir: Path, url: str, log_file: Path, hosts: int, seconds: float) -> None:
    installation = ServiceProcesses(data_dir, url, {"COXSWAIN_LOG_LEVEL": "WARNING"}, workers=hosts)
    with installation.running():
        installation.replicate("orchestrator")
        time.sleep(_SETTLING_SECONDS)
        families = _families(installation)
        log = Log(log_file)
        commits, cpu, began = asyncio.run(_commits(url)), _cpu(families), time.monotonic()
        time.sleep(seconds)
        passed = time.monotonic() - began
        counted, later, after = log.count(shape), _cpu(families), asyncio.run(_commits(url))
        for statement, count in counted.most_common():
            print(f"{count / passed:7.2f}/s  {statement[:230]}")
        # Asking takes transactions too.
        print(f"{sum(counted.values()) / passed:7.2f}/s statements")
        print(
            f"{(after[0] - commits[0] - 1) / passed:7.2f}/s commits, {(after[1] - commits[1]) / passed:.2f}/s rollbacks"
        )
        for name, times in later.items():
            shares = [100 * (now - before) / passed for now, before in zip(times, cpu[name], strict=False)]
            used = f"{shares[0]:7.2f} % of a core, {_mebibytes(families[name]):4.0f} MiB"
            print(f"{used}  {name}; children {sum(shares[1:]):.2f} %")
        for name, count in asyncio.run(_connections(url)).most_common():
            print(f"{count:4} connections  {name}")
        starts = _starts(installation)
        print(f"{1000 * statistics.median(starts):7.1f} ms start to first event, worst {1000 * max(starts):.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="coxswain-bench-") as directory:
        server = get_server(Path(directory) / "pg")
        try:
            asyncio.run(prepare(server.get_uri()))
            url = server.get_uri().replace("/postgres?", "/bench?")
            data_dir = Path(directory) / "data"
            data_dir.mkdir()
            measure(data_dir, url, Path(directory) / "pg" / "log", arguments.hosts, arguments.seconds)
        finally:
            server.cleanup()


if __name__ == "__main__":
    main()
