"""A process with a queue of segments, driven through standard input. Arguments: URL EXECUTOR SLOTS GROUP_LIMIT.

Lines of JSON both ways. In: {"do": name, ...}; out: {"ready": true}, {"ran": [id, generation]} when a segment begins,
and {"done": result} for each command. A segment runs until a command finishes it.
"""

import asyncio
import json
import os
import sys
from typing import Any

from services.orchestrator.worker.queue.dbos_queue import Segment, SegmentQueue


class Played:
    """Runs segments until a command ends them, and asks the queue what commands ask."""

    def __init__(self) -> None:
        url, executor_id, slots, group_limit = sys.argv[1:]
        self.queue = SegmentQueue(url, executor_id, slots=int(slots), group_limit=int(group_limit), poll_seconds=0.02)
        self.finishing: dict[Segment, asyncio.Future[str]] = {}

    async def run(self, segment: Segment) -> None:
        self.finishing[segment] = asyncio.get_running_loop().create_future()
        tell(ran=[segment.execution_id, segment.generation])
        how = await self.finishing[segment]
        if how == "fail":
            raise LookupError("it failed")

    async def do(self, name: str, command: dict[str, Any]) -> Any:
        segments = [Segment(*segment) for segment in command.get("segments", [])]
        match name:
            case "submit":
                for segment in segments:
                    await self.queue.submit(segment, group_id=command["group"], priority=command.get("priority", 0))
            case "finish" | "fail":
                for segment in segments:
                    self.finishing[segment].set_result(name)
            case "recover":
                await self.queue.recover(command["executors"])
            case "holders":
                return sorted(await self.queue.holders())
            case "states":
                return [str((await self.queue.states(segments))[segment]) for segment in segments]
            case "holds":
                return [await self.queue.holds(segment) for segment in segments]
            case "forget":
                return await self.queue.forget_finished(command["before"])
            case "stop_taking":
                self.queue.stop_taking()
            case _:
                raise ValueError(name)
        return None


def tell(**message: Any) -> None:
    print(json.dumps(message), flush=True)


async def main() -> None:
    played = Played()
    await played.queue.launch(played.run)
    tell(ready=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        command = json.loads(line)
        tell(done=await played.do(command.pop("do"), command))
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
