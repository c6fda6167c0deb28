"""A tool that asks the people who watch the execution."""

import json

from google.protobuf.json_format import MessageToDict

from coxswain.orchestrator.v1 import tool_gateway_pb2 as pb
from services.common.grpc.json_values import to_struct
from services.common.storable import storable
from services.orchestrator.worker.host.host_tools.base import HostToolCall, HostToolError
from services.orchestrator.worker.host.tool_gateway_client import LeftWaiting


class AskPerson:
    """Asks one question, and returns the answer of the first who gives one."""

    async def call(self, call: HostToolCall) -> str:
        """See `HostTool`."""
        answer: dict[str, object] = {"type": "string", "minLength": 1, "description": "The answer, for the agent."}
        if choices := call.arguments.get("choices"):
            answer["enum"] = [storable(choice) for choice in choices]
        schema = {"type": "object", "properties": {"answer": answer}, "required": ["answer"]}
        question = pb.SourceQuestion(
            number=1,
            text=storable(call.arguments["question"]),
            schema=to_struct({**schema, "additionalProperties": False}),
        )
        said = await call.listener.ask(question)
        if said is None:
            raise LeftWaiting
        if said.action != "accept":
            raise HostToolError("the people who were asked declined to answer; go on without the answer")
        content = MessageToDict(said.content)
        text = content.get("answer")
        return text if isinstance(text, str) else json.dumps(content, ensure_ascii=False)
