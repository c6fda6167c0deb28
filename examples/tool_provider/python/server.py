"""Gives crews two tools over gRPC, and makes each call once, however often it arrives: python server.py [HOST:PORT]"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from coxswain.tools.v1 import tool_provider_pb2 as pb
from coxswain.tools.v1 import tool_provider_service_pb2_grpc as service


async def get_invoice(number: str) -> dict[str, str]:
    """Return an invoice: its number, amount and currency."""
    return {"number": number, "amount": "120.50", "currency": "EUR"}


async def pay_invoice(number: str) -> dict[str, str]:
    """Pay an invoice, and return the number of the payment."""
    await asyncio.sleep(0.2)  # here the money would move
    return {"payment": f"P-{number}"}


TOOLS = {work.__name__: work for work in (get_invoice, pay_invoice)}
SCHEMA = {"type": "object", "properties": {"number": {"type": "string"}}, "required": ["number"]}
Calls = dict[str, asyncio.Task[dict[str, str]]]


class Provider(service.ToolProviderServicer):
    """Keeps its calls in memory. A real one keeps them in its database, in the transaction that pays."""

    def __init__(self) -> None:
        self.started = time.time()
        self.calls: Calls = {}

    async def ListTools(self, request: pb.ListToolsRequest, context: Any) -> pb.ListToolsResponse:
        schema = json.dumps(SCHEMA)
        return pb.ListToolsResponse(
            tools=[
                pb.ProvidedTool(name=name, description=work.__doc__ or "", input_schema_json=schema)
                for name, work in TOOLS.items()
            ]
        )

    async def CallTool(self, request: pb.CallToolRequest, context: Any) -> AsyncIterator[pb.CallToolResponse]:
        repeated = request.call_id in self.calls
        if not repeated:
            if request.tool not in TOOLS:
                await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no tool {request.tool}")
            arguments = json.loads(request.arguments_json)
            if not isinstance(arguments, dict) or not isinstance(arguments.get("number"), str):
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "number: has to be a text")
            # Beside the stream, which may break: the call goes on, and is found by its id.
            self.calls[request.call_id] = asyncio.create_task(TOOLS[request.tool](arguments["number"]))
        yield pb.CallToolResponse(accepted=pb.Accepted(repeated=repeated))
        call = self.calls[request.call_id]
        while not (await asyncio.wait([call], timeout=5))[0]:
            yield pb.CallToolResponse(progress=pb.Progress(text="still at work"))
        yield pb.CallToolResponse(result=result_of(call))

    async def GetCall(self, request: pb.GetCallRequest, context: Any) -> pb.GetCallResponse:
        call = self.calls.get(request.call_id)
        if call is None:  # one that was sent before this start, or may have been, is not known to be new
            newer = request.HasField("sent_time") and request.sent_time.seconds > self.started + 60
            return pb.GetCallResponse(state=pb.CALL_STATE_NEVER_SEEN if newer else pb.CALL_STATE_FORGOTTEN)
        if not call.done():
            return pb.GetCallResponse(state=pb.CALL_STATE_RUNNING)
        return pb.GetCallResponse(state=pb.CALL_STATE_DONE, result=result_of(call))

    async def CancelCall(self, request: pb.CancelCallRequest, context: Any) -> pb.CancelCallResponse:
        call = self.calls.get(request.call_id)
        state = pb.CALL_STATE_FORGOTTEN if call is None else pb.CALL_STATE_DONE
        return pb.CancelCallResponse(state=pb.CALL_STATE_RUNNING if call is not None and call.cancel() else state)


def result_of(call: asyncio.Task[dict[str, str]]) -> pb.CallResult:
    """Return what a finished call returned, or that it has failed."""
    if call.cancelled() or call.exception() is not None:
        return pb.CallResult(text="the call was cancelled or has failed; ask accounting", is_error=True)
    return pb.CallResult(structured_json=json.dumps(call.result()))


async def main(address: str) -> None:
    """Serve until the process is stopped."""
    server = grpc.aio.server()
    service.add_ToolProviderServicer_to_server(Provider(), server)
    print(f"serving on port {server.add_insecure_port(address)}", flush=True)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50061"))
