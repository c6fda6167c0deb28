"""The official client of A2A 0.3 with many tasks, as a program run by its path in an environment of its own.

It sends each message, leaves its stream at once, subscribes to its task twice, cancels every third one, and prints a
line of JSON for each task: what each stream told, and how the task stands in the end.
"""

import argparse
import asyncio
import json
from typing import Any

import grpc
from a2a.client import ClientConfig, ClientFactory
from a2a.types import AgentCapabilities, AgentCard, Message, Part, Role, Task, TaskIdParams, TaskQueryParams, TextPart
from client import Streams, Unary


def shown(task: Task, update: Any) -> list[Any]:
    """Return what an event tells, and how far it goes."""
    if update is None:
        return ["task", task.status.state.value, int(task.metadata["coxswain/sequence"])]
    told = update.status.state.value if update.kind == "status-update" else update.artifact.artifact_id
    return [update.kind, told, int(update.metadata["coxswain/sequence"])]


async def follow(client: Any, task_id: str, begun: asyncio.Event) -> list[Any] | None:
    """Return what a subscription tells, or None where the task had ended before it."""
    told = []
    try:
        async for task, update in client.resubscribe(TaskIdParams(id=task_id)):
            told.append(shown(task, update))
            begun.set()
    except grpc.aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.FAILED_PRECONDITION or told:
            raise
        return None
    finally:
        begun.set()
    return told


async def work(client: Any, number: int, places: asyncio.Semaphore) -> None:
    async with places:
        part = Part(root=TextPart(text=f"ships {number}"))
        stream = client.send_message(Message(message_id=str(number), role=Role.user, parts=[part]))
        task, _ = await anext(stream)
        await stream.aclose()
        begun = [asyncio.Event(), asyncio.Event()]
        following = [asyncio.create_task(follow(client, task.id, one)) for one in begun]
        cancels = number % 3 == 2
        if cancels:
            await asyncio.gather(*(one.wait() for one in begun))
            await client.cancel_task(TaskIdParams(id=task.id))
        streams = await asyncio.gather(*following)
        ended = await client.get_task(TaskQueryParams(id=task.id))
        state = ended.status.state.value
        print(json.dumps({"id": task.id, "cancels": cancels, "state": state, "streams": streams}), flush=True)


async def main(address: str, token: str, count: int) -> None:
    card = AgentCard(
        name="Crew",
        description="Published",
        version="1",
        url=address,
        preferred_transport="GRPC",
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[],
    )
    config = ClientConfig(
        supported_transports=["GRPC"],
        grpc_channel_factory=lambda _: grpc.aio.insecure_channel(address, interceptors=[Unary(token), Streams(token)]),
    )
    client = ClientFactory(config).create(card)
    places = asyncio.Semaphore(4)
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(work(client, number, places))
    await client.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("--address", "--token"):
        parser.add_argument(name, required=True)
    parser.add_argument("--count", required=True, type=int)
    asyncio.run(main(**vars(parser.parse_args())))
