"""Auth and models in one process: `python -m benchmarks.gateway.ours DIRECTORY` prints its address and serves."""

import asyncio
import sys
from pathlib import Path

import uvloop

from services.common.logging import configure_logging
from services.common.runner import settle
from services.models.settings import ModelsSettings
from tests.support.harness import serve_services


async def _serve(directory: Path) -> None:
    configure_logging("WARNING", service="models")
    # One caller makes all calls here: the share of its group is not what is measured.
    settings = {"models": ModelsSettings(max_calls_per_group=1000)}
    async with serve_services(directory, "models", settings=settings) as harness:
        # As every service's own process does.
        settle()
        print(harness.address, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(Path(sys.argv[1])))
