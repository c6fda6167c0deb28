"""The official client of A2A 0.3 as a program, run by its path in an environment of its own.

It discovers the agent by its card, sends a message, gives what is missing, approves what it is asked, and prints what
it was told as JSON.
"""

import argparse
import asyncio
import json
from typing import Any

import grpc
import httpx
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.types import Message, Part, Role, Task, TaskIdParams, TaskQueryParams, TextPart


class _Bearer:
    """Adds the credential to calls: interceptors of this client itself have no effect with gRPC."""

    def __init__(self, token: str) -> None:
        self._metadata = ("authorization", f"Bearer {token}")

    async def intercept(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details._replace(metadata=[*(details.metadata or ()), self._metadata]), request)


class _Unary(_Bearer, grpc.aio.UnaryUnaryClientInterceptor):
    intercept_unary_unary = _Bearer.intercept


class _Streams(_Bearer, grpc.aio.UnaryStreamClientInterceptor):
    intercept_unary_stream = _Bearer.intercept


def said(text: str, number: int, task_id: str | None = None) -> Message:
    return Message(message_id=str(number), role=Role.user, task_id=task_id, parts=[Part(root=TextPart(text=text))])


async def follow(client: Any, message: Message, told: list[list[str]]) -> Task:
    """Send a message, note each state and artifact, and return the task."""
    found: Task | None = None
    async for event in client.send_message(message):
        task, update = event
        found = task
        if update is None:
            told.append(["task", task.status.state.value])
        elif update.kind == "status-update":
            told.append(["status", update.status.state.value])
        else:
            told.append(["artifact", update.artifact.parts[0].root.text])
    assert found is not None
    return found


async def main(cards: str, address: str, token: str) -> None:
    told: list[list[str]] = []
    async with httpx.AsyncClient(trust_env=False) as http:
        card = await A2ACardResolver(http, cards).get_agent_card(relative_card_path="/.well-known/agent.json")
        config = ClientConfig(
            supported_transports=["GRPC"],
            grpc_channel_factory=lambda _: grpc.aio.insecure_channel(
                address, interceptors=[_Unary(token), _Streams(token)]
            ),
        )
        client = ClientFactory(config).create(card)
        lacking = await follow(client, said("the news", 1), told)
        asked = await follow(client, said("ships", 2, lacking.id), told)
        ended = await follow(client, said("approve", 3, asked.id), told)
        read = await client.get_task(TaskQueryParams(id=ended.id))
        other = await follow(client, said("the news", 4), [])
        cancelled = await client.cancel_task(TaskIdParams(id=other.id))
        shown = {"name": card.name, "told": told, "read": read.status.state.value, "turns": len(read.history or [])}
        print(json.dumps({**shown, "cancelled": cancelled.status.state.value}))
        await client.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("--cards", "--address", "--token"):
        parser.add_argument(name, required=True)
    asyncio.run(main(**vars(parser.parse_args())))
