"""The official client of A2A 0.3 as a program, run by its path in an environment of its own.

It discovers the agent by its card, sends a message, gives what is missing, approves what it is asked, receives push
notifications, and prints what it was told as JSON.
"""

import argparse
import asyncio
import json
from typing import Any

import grpc
import httpx
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.types import (
    GetTaskPushNotificationConfigParams,
    Message,
    Part,
    PushNotificationConfig,
    Role,
    Task,
    TaskIdParams,
    TaskPushNotificationConfig,
    TaskQueryParams,
    TextPart,
)


class Bearer:
    """Adds the credential to calls: interceptors of this client itself have no effect with gRPC."""

    def __init__(self, token: str) -> None:
        self._metadata = ("authorization", f"Bearer {token}")

    async def intercept(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details._replace(metadata=[*(details.metadata or ()), self._metadata]), request)


class Unary(Bearer, grpc.aio.UnaryUnaryClientInterceptor):
    intercept_unary_unary = Bearer.intercept


class Streams(Bearer, grpc.aio.UnaryStreamClientInterceptor):
    intercept_unary_stream = Bearer.intercept


class _Receiver:
    """Takes the tasks that are posted to it."""

    def __init__(self) -> None:
        self.states: dict[str, list[str]] = {}
        """By path."""
        self._changed = asyncio.Condition()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(line for line in head.splitlines() if line.lower().startswith("content-length:"))
        body = await reader.readexactly(int(length.partition(":")[2]))
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()
        async with self._changed:
            self.states.setdefault(head.split()[1], []).append(Task.model_validate_json(body).status.state.value)
            self._changed.notify_all()

    async def have(self, count: int, *paths: str) -> None:
        """Wait until so many tasks were posted to each path."""
        async with self._changed:
            await self._changed.wait_for(lambda: all(len(self.states.get(path, ())) >= count for path in paths))


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
    receiver = _Receiver()
    server = await asyncio.start_server(receiver.take, "127.0.0.1", 0)
    hook = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with httpx.AsyncClient(trust_env=False) as http:
        card = await A2ACardResolver(http, cards).get_agent_card(relative_card_path="/.well-known/agent.json")
        config = ClientConfig(
            supported_transports=["GRPC"],
            grpc_channel_factory=lambda _: grpc.aio.insecure_channel(
                address, interceptors=[Unary(token), Streams(token)]
            ),
            push_notification_configs=[PushNotificationConfig(id="sent", url=f"{hook}/sent")],
        )
        client = ClientFactory(config).create(card)
        lacking = await follow(client, said("the news", 1), told)
        wanted = PushNotificationConfig(id="set", url=f"{hook}/set", token="tok")
        await client.set_task_callback(TaskPushNotificationConfig(task_id=lacking.id, push_notification_config=wanted))
        shown_config = await client.get_task_callback(
            GetTaskPushNotificationConfigParams(id=lacking.id, push_notification_config_id="set")
        )
        asked = await follow(client, said("ships", 2, lacking.id), told)
        ended = await follow(client, said("approve", 3, asked.id), told)
        await receiver.have(3, "/sent", "/set")
        read = await client.get_task(TaskQueryParams(id=ended.id))
        other = await follow(client, said("the news", 4), [])
        cancelled = await client.cancel_task(TaskIdParams(id=other.id))
        shown = {"name": card.name, "told": told, "read": read.status.state.value, "turns": len(read.history or [])}
        config = shown_config.push_notification_config
        shown |= {"config": [config.id, config.url == wanted.url], "posted": receiver.states}
        print(json.dumps({**shown, "cancelled": cancelled.status.state.value}))
        await client.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("--cards", "--address", "--token"):
        parser.add_argument(name, required=True)
    asyncio.run(main(**vars(parser.parse_args())))
