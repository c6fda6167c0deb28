"""A provider of tools over gRPC as a process that is killed and started again; it is run by its path.

Its ledger is what a real one's database would be: a call that stands in it has had its effect, and is not made again.
"""

import argparse
import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from coxswain.tools.v1 import tool_provider_pb2 as pb
from coxswain.tools.v1 import tool_provider_service_pb2_grpc as service

SCHEMA = {
    "type": "object",
    "properties": {"key": {"type": "string"}, "pause": {"type": "number"}},
    "required": ["key"],
}


class Provider(service.ToolProviderServicer):
    """Pays, then takes its time to say so."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger

    def _paid(self, call_id: str) -> str | None:
        lines = self._ledger.read_text().splitlines() if self._ledger.exists() else []
        return next((lines[place - 1] for place, line in enumerate(lines) if line == f"call {call_id}"), None)

    def _pay(self, call_id: str, key: str) -> None:
        # One write: both lines are there, or none.
        with self._ledger.open("ab", buffering=0) as paid:
            paid.write(f"{key}\ncall {call_id}\n".encode())

    async def ListTools(self, request: pb.ListToolsRequest, context: Any) -> pb.ListToolsResponse:
        tool = pb.ProvidedTool(name="pay", description="Pay once.", input_schema_json=json.dumps(SCHEMA))
        return pb.ListToolsResponse(tools=[tool])

    async def CallTool(self, request: pb.CallToolRequest, context: Any) -> AsyncIterator[pb.CallToolResponse]:
        arguments = json.loads(request.arguments_json)
        repeated = self._paid(request.call_id) is not None
        if not repeated:
            self._pay(request.call_id, arguments["key"])
        yield pb.CallToolResponse(accepted=pb.Accepted(repeated=repeated))
        await asyncio.sleep(arguments.get("pause", 0))
        yield pb.CallToolResponse(result=_result(arguments["key"]))

    async def GetCall(self, request: pb.GetCallRequest, context: Any) -> pb.GetCallResponse:
        key = self._paid(request.call_id)
        if key is None:
            return pb.GetCallResponse(state=pb.CALL_STATE_NEVER_SEEN)
        return pb.GetCallResponse(state=pb.CALL_STATE_DONE, result=_result(key))

    async def CancelCall(self, request: pb.CancelCallRequest, context: Any) -> pb.CancelCallResponse:
        paid = self._paid(request.call_id) is not None
        return pb.CancelCallResponse(state=pb.CALL_STATE_DONE if paid else pb.CALL_STATE_FORGOTTEN)


def _result(key: str) -> pb.CallResult:
    return pb.CallResult(text=f"paid {key}")


async def main() -> None:
    """Serve until the process is stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ledger", default=os.devnull)
    options = parser.parse_args()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    service.add_ToolProviderServicer_to_server(Provider(Path(options.ledger)), server)
    server.add_insecure_port(f"127.0.0.1:{options.port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
