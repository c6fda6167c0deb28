"""The program of the helper process. It is run by its path and in isolation; see `call_server`."""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
    from services.common.containment.network_files import network_file_identities
    from services.models.providers.litellm.process_limits import limit_process

    max_bytes, ports = json.loads(sys.argv[1])
    network_files = network_file_identities()
    limit_process(ports)
    from services.models.providers.litellm.call_server import serve

    # What libraries print or read must not get between the frames; nothing they log may hold a prompt or a key.
    pipes = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(null, descriptor)
    sys.stdin = sys.stdout = open(os.devnull, "w+")  # noqa: SIM115, PTH123
    logging.disable(logging.CRITICAL)
    asyncio.run(serve(*pipes, max_bytes, network_files))
