"""Run a worker host: `python -m services.orchestrator.worker`."""

from services.common.first_signals import end_on_signals

if __name__ == "__main__":
    end_on_signals()

import argparse
import asyncio
import contextlib
import os
import sys
from functools import partial

from services.common.containment.contain import keep_memory_private
from services.common.environment import read_settings
from services.common.hosting import Host
from services.common.metrics_server import serve_metrics
from services.common.process_state import ProcessState
from services.common.runner import run
from services.common.settings import PARTS, SERVICES, CommonSettings, peer_address
from services.common.startup import StartError
from services.common.tracing.spans import is_on, switch_off
from services.common.unknown_variables import log_unknown_variables
from services.orchestrator.settings import OrchestratorSettings
from services.orchestrator.worker.host.crew_process import ForkServerLost, NotContained
from services.orchestrator.worker.host.host import WorkerHost
from services.orchestrator.worker.settings import WorkerSettings


async def serve(common: CommonSettings, state: ProcessState, *, supervised: bool) -> None:
    """Work until asked to stop, then let what runs end for a while."""
    settings, shared = read_settings(WorkerSettings), read_settings(OrchestratorSettings)
    log_unknown_variables()
    if settings.containment != "off":
        with contextlib.suppress(OSError):
            keep_memory_private()
    serve_metrics(common, state)
    host = Host(common, {peer: peer_address(peer) for peer in (*SERVICES, *PARTS)})

    async def start() -> WorkerHost:
        worker = WorkerHost(settings, shared, await host.runtime("orchestrator"))
        try:
            await worker.start()
        except NotContained as error:
            raise StartError(
                f"COXSWAIN_WORKER_CONTAINMENT=require, and crew processes cannot be contained here by {error}; "
                "docs/containment.md says what that needs"
            ) from error
        except ForkServerLost as error:
            raise StartError("CrewAI could not be loaded; what the fork server wrote above says why") from error
        return worker

    worker = await state.unless_stopped(start())
    if worker is not None:
        state.take_work(lambda: worker.silent_seconds < settings.lease_seconds)
        worker.announce(repeatedly=supervised)
        await state.stop.wait()
        await worker.drain()
    if is_on():
        await asyncio.to_thread(switch_off)
    sys.stderr.flush()
    # At once: what still runs is other hosts' now.
    os._exit(0)


def main() -> None:
    """Read the command line and work."""
    parser = argparse.ArgumentParser(prog="python -m services.orchestrator.worker", description="Runs a worker host.")
    parser.add_argument(
        "--supervised", action="store_true", help="show on standard output, again and again, that the host works"
    )
    run(partial(serve, supervised=parser.parse_args().supervised), "worker")


if __name__ == "__main__":
    main()
