"""What programs of `helper_process` have in common. It needs nothing but the standard library, to start fast.

Frames in both directions are four bytes of length (big-endian), then JSON. Where the key `attached` of a request is
true, another frame follows whose bytes take its place.
"""

import json
import os
import resource
import sys
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from services.common.containment.contain import Profile, contain
from services.common.containment.python_files import python_files
from services.common.resource_limits import limit_resource

_LENGTH_BYTES = 4
_MAX_MEMORY_BYTES = 1024**3


def serve(answer: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
    """Answer requests until the other end is gone, with no more than a gigabyte of memory.

    The kernel, where it can, leaves this process Python's own files to read and its pipes to write to.
    """
    limit_resource(resource.RLIMIT_AS, _MAX_MEMORY_BYTES)
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        limit_resource(kind, 0)
    inbound, outbound = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    contain(Profile(python_files()))
    # What a library prints must not get between the frames.
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
    while (frame := _frame(inbound)) is not None:
        request = json.loads(frame)
        if request.get("attached"):
            request["attached"] = _frame(inbound)
        # Texts of most languages are shorter unescaped; half of a surrogate pair passes as JSON lets it.
        response = json.dumps(answer(request), ensure_ascii=False).encode("utf-8", "surrogatepass")
        outbound.write(len(response).to_bytes(_LENGTH_BYTES, "big") + response)
        outbound.flush()


def _frame(inbound: BinaryIO) -> bytes | None:
    header = inbound.read(_LENGTH_BYTES)
    return inbound.read(int.from_bytes(header, "big")) if len(header) == _LENGTH_BYTES else None


def serve_readings(read: Callable[[str, dict[str, Any]], dict[str, Any]]) -> None:
    """Answer requests `{"what", "given", "seconds"}`, each with its share of processor time.

    `read` returns what the reader of a name makes of what it is given: the answer is `{"found"}`, or `{"problem"}`
    where it raises ValueError, or `{"failed"}` with the name of another exception. When its time is spent the system
    ends the process, and with it the reading.
    """

    def answer(request: Mapping[str, Any]) -> dict[str, Any]:
        spent = resource.getrusage(resource.RUSAGE_SELF)
        used = int(spent.ru_utime + spent.ru_stime)
        resource.setrlimit(resource.RLIMIT_CPU, (used + request["seconds"], resource.RLIM_INFINITY))
        given = {**request["given"], "content": request.get("attached", b"")}
        try:
            return {"found": read(request["what"], given)}
        except RecursionError:
            return {"problem": "it is nested too deep"}
        except MemoryError:
            return {"problem": "it takes too much memory to read"}
        except ValueError as error:
            return {"problem": str(error)}
        except Exception as error:  # noqa: BLE001 - libraries that read files raise everything
            return {"failed": type(error).__name__}

    serve(answer)
