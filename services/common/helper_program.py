"""What programs of `helper_process` have in common. It imports nothing but the standard library, to start fast.

Frames in both directions are four bytes of length (big-endian), then JSON.
"""

import json
import os
import resource
import sys
from collections.abc import Callable, Mapping
from typing import Any

_LENGTH_BYTES = 4
_MAX_MEMORY_BYTES = 1024**3


def serve(answer: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """Answer requests until the other end is gone, with no more than a gigabyte of memory."""
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    inbound, outbound = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What a library prints must not get between the frames.
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
    while len(header := inbound.read(_LENGTH_BYTES)) == _LENGTH_BYTES:
        request = json.loads(inbound.read(int.from_bytes(header, "big")))
        response = json.dumps(answer(request)).encode()
        outbound.write(len(response).to_bytes(_LENGTH_BYTES, "big") + response)
        outbound.flush()
