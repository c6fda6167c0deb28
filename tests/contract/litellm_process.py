"""Calls litellm for tests: a line of JSON for each call on stdin, a line with what came of it on stdout.

litellm takes seconds to import and configures its process as it likes: it never runs in the tests' own.
"""

import asyncio
import json
import logging
import sys
from typing import Any


async def _run(litellm: Any, kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        if kind == "embed":
            return {"documents": [(await litellm.aembedding(**arguments)).model_dump(mode="json")]}
        answer = await litellm.acompletion(**arguments, _skip_mcp_handler=True, stream=kind == "stream", num_retries=0)
        if kind == "stream":
            return {"documents": [chunk.model_dump(mode="json") async for chunk in answer]}
        return {"documents": [answer.model_dump(mode="json")]}
    except Exception as error:  # litellm raises what its providers' libraries raise
        return {
            "error": type(error).__name__,
            "status": getattr(error, "status_code", None),
            "message": str(getattr(error, "message", error)),
        }


async def _main() -> None:
    out = sys.stdout
    sys.stdout = sys.stderr
    import litellm

    litellm.suppress_debug_info = True
    logging.disable(logging.CRITICAL)
    while line := await asyncio.to_thread(sys.stdin.readline):
        call = json.loads(line)
        print(json.dumps(await _run(litellm, call["kind"], call["arguments"])), file=out, flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
