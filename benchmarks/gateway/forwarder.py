"""The least that a gateway can do: `python -m benchmarks.gateway.forwarder UPSTREAM` prints its address and serves.

grpc.aio in, aiohttp out, one message for each event; no identity, checks, limits, retries or usage.
"""

import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import uvloop

from coxswain.models.v1 import inference_pb2 as pb

_HEADERS = {"Authorization": "Bearer benchmark"}


class _Forwarder:
    def __init__(self, upstream: str) -> None:
        self._url = f"{upstream}/v1/chat/completions"
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    def _request(self, completion: pb.Completion, **more: Any) -> Any:
        messages = [{"role": "user", "content": message.content[0].text} for message in completion.messages]
        body = {"model": completion.model, "messages": messages, **more}
        return self._session.post(self._url, json=body, headers=_HEADERS)

    async def complete(self, request: pb.CompleteRequest, _context: Any) -> pb.CompleteResponse:
        async with self._request(request.completion) as response:
            document = await response.json()
        usage = document["usage"]
        return pb.CompleteResponse(
            text=document["choices"][0]["message"]["content"],
            finish_reason=pb.FINISH_REASON_STOP,
            usage=pb.Usage(input_tokens=usage["prompt_tokens"], output_tokens=usage["completion_tokens"]),
            upstream_model=document["model"],
        )

    async def stream(
        self, request: pb.StreamCompleteRequest, _context: Any
    ) -> AsyncIterator[pb.StreamCompleteResponse]:
        async with self._request(request.completion, stream=True) as response:
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                if text := event["choices"][0]["delta"].get("content"):
                    yield pb.StreamCompleteResponse(text=text)
                if usage := event.get("usage"):
                    yield pb.StreamCompleteResponse(
                        usage=pb.Usage(input_tokens=usage["prompt_tokens"], output_tokens=usage["completion_tokens"])
                    )
                    yield pb.StreamCompleteResponse(finish=pb.Finish(reason=pb.FINISH_REASON_STOP))


async def _serve(upstream: str) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    forwarder = _Forwarder(upstream)
    handlers: dict[str, Any] = {
        "Complete": grpc.unary_unary_rpc_method_handler(
            forwarder.complete,
            request_deserializer=pb.CompleteRequest.FromString,
            response_serializer=pb.CompleteResponse.SerializeToString,
        ),
        "StreamComplete": grpc.unary_stream_rpc_method_handler(
            forwarder.stream,
            request_deserializer=pb.StreamCompleteRequest.FromString,
            response_serializer=pb.StreamCompleteResponse.SerializeToString,
        ),
    }
    service = "coxswain.models.v1.InferenceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
