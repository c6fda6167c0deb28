"""The helper process that reads documents and statements from outside.

They may be made to take years or all memory. Each reading has its share of processor time, after which the system ends
the process, and with it the reading.

It is run by its path and in isolation. Frames in both directions are four bytes of length (big-endian), then JSON. It
reads `{"what", "given", "seconds"}` and writes `{"found"}`, or `{"problem"}` where it cannot be read.
"""

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any, BinaryIO

_LENGTH_BYTES = 4
_MAX_MEMORY_BYTES = 1024**3


def read(what: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return what the reader named `what` makes of what it is given.

    Raises:
        ValueError: it cannot be read; the text says why.
    """
    if what == "openapi":
        from services.orchestrator.tool_gateway.adapters.openapi.compiler import compile_document

        return compile_document(given["text"], given["operations"], given["idempotency_header"])
    if what == "sql":
        from services.orchestrator.tool_gateway.parsing.sql import read_statement

        return read_statement(given["statement"])
    from services.orchestrator.tool_gateway.parsing import pages

    if what == "page":
        return pages.read_page(given["content"], given["charset"], given["url"])
    if what == "pdf":
        return pages.read_pdf(given["content"])
    return pages.allows_robots(given["robots"], given["url"], given["agent"])


def _serve(inbound: BinaryIO, outbound: BinaryIO) -> None:
    while len(header := inbound.read(_LENGTH_BYTES)) == _LENGTH_BYTES:
        request = json.loads(inbound.read(int.from_bytes(header, "big")))
        _allow_seconds(request["seconds"])
        response: dict[str, Any]
        try:
            response = {"found": read(request["what"], request["given"])}
        except RecursionError:
            response = {"problem": "it is nested too deep"}
        except MemoryError:
            response = {"problem": "it takes too much memory to read"}
        except ValueError as error:
            response = {"problem": str(error)}
        data = json.dumps(response).encode()
        outbound.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
        outbound.flush()


def _allow_seconds(seconds: int) -> None:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(spent.ru_utime + spent.ru_stime) + seconds, resource.RLIM_INFINITY))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY_BYTES, _MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The parser of SQL spends some twenty frames on each pair of parentheses.
    sys.setrecursionlimit(10_000)
    sys.path.insert(0, str(Path(__file__).resolve().parents[4]))
    pipes = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What a library prints must not get between the frames.
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
    _serve(*pipes)
