"""An upstream that answers at once: `python -m benchmarks.gateway.upstream` prints its address and serves until killed.

It speaks OpenAI's interface and reads no more of a request than which answer is wanted, so that it costs the measured
processes as little of the machine as possible.
"""

import asyncio
import json
from typing import Any

import uvloop
from aiohttp import web

_TEXT = "The capital of France is Paris, which lies on the Seine and has some two million people in it."
_WORDS = _TEXT.split()
_USAGE = {"prompt_tokens": 14, "completion_tokens": len(_WORDS), "total_tokens": 14 + len(_WORDS)}
_MODEL = "emulated"


def _chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": _MODEL, "choices": choices}
    return b"data: " + json.dumps(event | more).encode() + b"\n\n"


_WHOLE = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": _MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": _TEXT}, "finish_reason": "stop"}],
        "usage": _USAGE,
    }
).encode()
_EVENTS = [
    _chunk({"role": "assistant", "content": ""}),
    *(_chunk({"content": f"{word} "}) for word in _WORDS),
    _chunk({}, "stop", usage=_USAGE) + b"data: [DONE]\n\n",
]


async def _answer(request: web.Request) -> web.StreamResponse:
    body = await request.read()
    if b'"stream":true' not in body.replace(b" ", b""):
        return web.Response(body=_WHOLE, content_type="application/json")
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    if b"apart" in body:
        for event in _EVENTS:
            await response.write(event)
            await asyncio.sleep(0.002)
    else:
        await response.write(b"".join(_EVENTS))
    await response.write_eof()
    return response


async def _serve() -> None:
    application = web.Application()
    application.router.add_post("/v1/chat/completions", _answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve())
