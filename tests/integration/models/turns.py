"""Answers as the messages of the next turn, put together as the protos say."""

from typing import Any

from coxswain.models.v1 import inference_pb2 as pb
from tests.integration.models.support import Installation, ask, ask_stream


async def answer(models: Installation, model: str, *messages: pb.Message, stream: bool, **fields: Any) -> pb.Message:
    """Ask, and return the answer as the message that hands it back."""
    if not stream:
        whole = await models.inference().Complete(ask(model, *messages, **fields))
        thinking, said, calls = list(whole.thinking), whole.text, list(whole.tool_calls)
    else:
        thinking, said, calls = [], "", []
        async for piece in models.inference().StreamComplete(ask_stream(model, *messages, **fields)):
            match piece.WhichOneof("delta"):
                case "text":
                    said += piece.text
                case "thinking":
                    # Before what it led to.
                    assert not said
                    assert not calls
                    thinking.append(piece.thinking)
                case "tool_call":
                    more = piece.tool_call
                    if more.index == len(calls):
                        calls.append(pb.ToolCall(id=more.id, name=more.name, provider_state=more.provider_state))
                    calls[more.index].arguments_json += more.arguments_json
                case _:
                    pass
    parts = [pb.ContentPart(thinking=piece) for piece in thinking] + ([pb.ContentPart(text=said)] if said else [])
    return pb.Message(role=pb.MESSAGE_ROLE_ASSISTANT, content=parts, tool_calls=calls)
