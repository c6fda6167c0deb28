"""Run a worker host: `python -m services.orchestrator.worker`."""

import asyncio
import os
import sys

from services.common.environment import read_settings
from services.common.hosting import Host, serve_metrics
from services.common.runner import run
from services.common.settings import SERVICES, CommonSettings, peer_address
from services.common.startup import StartError
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.worker.host.crew_process import ForkServerLost
from services.orchestrator.worker.host.host import WorkerHost
from services.orchestrator.worker.settings import WorkerSettings


async def main(common: CommonSettings, stop: asyncio.Event) -> None:
    """Work until asked to stop, then let what runs end for a while."""
    settings, shared = read_settings(WorkerSettings), read_settings(OrchestratorSettings)
    host = Host(common, {peer: peer_address(peer) for peer in SERVICES})
    worker = WorkerHost(settings, shared, await host.runtime("orchestrator"))
    starting, stopping = asyncio.create_task(worker.start()), asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if starting.done():
        try:
            starting.result()
        except ForkServerLost as error:
            raise StartError("CrewAI could not be loaded; what the fork server wrote above says why") from error
        serve_metrics(common)
        worker.announce()
        await stopping
        await worker.drain()
    sys.stderr.flush()
    # At once: what still runs is other hosts' now.
    os._exit(0)


if __name__ == "__main__":
    run(main, "worker")
