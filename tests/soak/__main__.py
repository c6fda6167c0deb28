"""`make soak`: mixed load on all services while processes are killed, stopped, frozen and replaced.

PostgreSQL is restarted as well. Nothing may be lost or doubled, no call may fail but while the database is away, and
what processes hold comes back to its level.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from pathlib import Path

# PostgreSQL is restarted as another user, for which Python forks: gRPC's handlers end such a child with a fault.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
# Where pgserver keeps its lock; the library warns where there is no such directory.
os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="coxswain-run-"))

from pgserver.postgres_server import get_server

from coxswain.client import AsyncClient
from tests.soak.disturbances import OFTEN, Disturbances
from tests.soak.levels import Level, connections, levels, not_given_back
from tests.soak.load import ALICE, Load
from tests.soak.replicas import Replicas
from tests.support.llm_emulator import LlmEmulator

_WARM_SECONDS = 20.0
_CALM_SECONDS = 30.0
_PROGRESS_SECONDS = 30.0
_MORE_CONNECTIONS = 10


def main() -> int:
    """Soak as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to disturb (default 10)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeats the order of an earlier run")
    parser.add_argument("--callers", type=int, default=1, help="each makes some ten calls per second (default 1)")
    parser.add_argument("--only", nargs="+", choices=OFTEN, default=list(OFTEN), help="what is done (default all)")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}: {arguments.minutes:g} minutes; two replicas of everything start ...", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="coxswain-soak-") as directory,
        tempfile.TemporaryDirectory(prefix="coxswain-pg-") as data,
        LlmEmulator() as llm,
    ):
        postgres = get_server(data)
        try:
            with Replicas(Path(directory), postgres, llm).running() as replicas:
                return asyncio.run(_Soak(replicas, arguments).run(arguments.minutes * 60))
        finally:
            postgres.cleanup()


class _Soak:
    def __init__(self, replicas: Replicas, arguments: argparse.Namespace) -> None:
        self._replicas = replicas
        self._callers: int = arguments.callers
        self._disturbances = Disturbances(replicas, arguments.only, random.Random(arguments.seed), self._say)
        self._began = time.monotonic()

    async def run(self, seconds: float) -> int:
        async with AsyncClient(self._replicas.addresses, token=ALICE) as client:
            load = Load(client, self._replicas.llm, self._callers)
            load.prepare()
            calling = asyncio.create_task(load.run())
            await asyncio.sleep(_WARM_SECONDS)
            before = await asyncio.to_thread(levels, self._replicas)
            connected = await asyncio.to_thread(connections, self._replicas)
            self._say("warm; disturbances begin")
            disturbing = asyncio.create_task(asyncio.to_thread(self._disturbances.run))
            progress = asyncio.create_task(self._progress(load))
            await asyncio.wait([calling, disturbing], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            self._disturbances.stop()
            await disturbing
            self._say("no more disturbances; callers end what they do")
            load.stop()
            await calling
            progress.cancel()
            await load.check()
            await asyncio.sleep(_CALM_SECONDS)
            return await self._report(load, before, connected)

    async def _progress(self, load: Load) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            calls = sum(len(flow.seconds) for flow in load.flows.values())
            failed = sum(len(flow.failed) for flow in load.flows.values())
            self._say(f"{load.executions} executions, {calls} calls, {failed} failed, {len(load.wrong)} wrong")

    async def _report(self, load: Load, before: dict[str, Level], connected: int) -> int:
        self._disturbances.look()
        after = await asyncio.to_thread(levels, self._replicas)
        connected_after = await asyncio.to_thread(connections, self._replicas)
        faults = load.wrong + self._disturbances.wrong
        for name, level in before.items():
            faults += not_given_back(name, level, after[name])
        if connected_after > connected + _MORE_CONNECTIONS:
            faults.append(f"the database has {connected_after} connections, {connected} before")
        calls = sum(len(flow.seconds) for flow in load.flows.values())
        per_second = calls / (time.monotonic() - self._began)
        print(f"\n{load.executions} executions, {per_second:.0f} calls/s; {dict(self._disturbances.counts)}")
        excused = self._replicas.excused
        for name, flow in load.flows.items():
            print(flow.line(name, excused))
            failed = [each for each in flow.failed if not excused(*each[:2])]
            faults += [f"{name}: {how} at {self._at(ended)}" for _, ended, how in failed]
        print(f"{'replica':16} {'MiB before':>10} {'after':>6} {'files':>6} {'after':>6} {'threads':>8} {'after':>6}")
        for name, level in before.items():
            now = after[name]
            print(
                f"{name:16} {level.memory >> 20:10} {now.memory >> 20:6} {level.descriptors:6} {now.descriptors:6} "
                f"{level.threads:8} {now.threads:6}"
            )
        print(f"connections of the database: {connected}, after {connected_after}")
        print(f"{len(faults)} faults" + "".join(f"\n- {fault}" for fault in faults[:50]), flush=True)
        return 1 if faults else 0

    def _say(self, line: str) -> None:
        print(f"[{self._at(time.monotonic())}] {line}", flush=True)

    def _at(self, moment: float) -> str:
        return f"{moment - self._began:5.0f} s"


if __name__ == "__main__":
    sys.exit(main())
