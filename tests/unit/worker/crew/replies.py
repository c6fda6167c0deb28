"""A model both sides of a comparison can have: what it answers depends on nothing but what it is asked."""

import hashlib
import json
from typing import Any


def conversation(messages: list[Any], tools: Any) -> dict[str, Any]:
    """Return a request as plain data: who said what, and which tools are offered."""
    return {
        "messages": [
            {"role": message["role"], "text": _text(message), "calls": _calls(message)} for message in messages
        ],
        "tools": [
            {
                "name": tool["function"]["name"],
                "description": tool["function"].get("description", ""),
                "parameters": tool["function"].get("parameters", {}),
            }
            for tool in tools or ()
        ],
    }


def told_conversation(request: dict[str, Any]) -> dict[str, Any]:
    """Return the same of a request that came from a crew process."""
    return {
        "messages": [
            {
                "role": message["role"],
                "text": "".join(next(iter(part.values())) for part in message.get("content", ())),
                "calls": [[call["name"], call["arguments"]] for call in message.get("tool_calls", ())],
            }
            for message in request["messages"]
        ],
        "tools": request.get("tools", []),
    }


def _text(message: Any) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


def _calls(message: Any) -> list[list[str]]:
    return [[call["function"]["name"], call["function"]["arguments"]] for call in message.get("tool_calls") or ()]


def scripted(asked: dict[str, Any]) -> dict[str, Any]:
    """Delegate once where that is offered, else answer with words of one's own for each request."""
    texts = "\n".join(message["text"] for message in asked["messages"])
    offered = [tool["name"] for tool in asked["tools"]]
    if "delegate_work_to_coworker" in offered and not any(m["role"] == "tool" for m in asked["messages"]):
        coworker = "Writer" if "You are Reader" in texts else "Reader"
        arguments = {"task": "Find a fact", "context": "All there is", "coworker": coworker}
        call = {"id": "call-1", "name": "delegate_work_to_coworker", "arguments": json.dumps(arguments)}
        return {"text": "", "tool_calls": [call]}
    digest = hashlib.sha256(texts.encode()).hexdigest()[:10]
    return {"text": f"Result {digest} of what was asked.", "tool_calls": []}
