"""The host's side of a crew process, answering from a script instead of from services."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from services.orchestrator.domain.crew import CrewSpec, TaskSpec
from services.orchestrator.domain.document import to_document
from services.orchestrator.worker.host.crew_process import CrewProcess, ForkServer
from services.orchestrator.worker.link.framing import Frame

Reply = Callable[[Frame], Any]

CAPABLE = {"tools": True, "json_schema": True, "context_window": 0}
PLAIN = {"tools": False, "json_schema": False, "context_window": 0}


def text_of(message: Frame) -> str:
    """Return what a message says, material and instructions alike."""
    return "".join(next(iter(part.values())) for part in message.get("content", []))


def told(request: Frame) -> str:
    """Return everything a request says."""
    return "\n".join(text_of(message) for message in request["messages"])


def answer(text: str) -> Frame:
    return {"text": text, "tool_calls": []}


def tool_call(name: str, arguments: Mapping[str, Any], call_id: str = "call-1") -> Frame:
    return {"text": "", "tool_calls": [{"id": call_id, "name": name, "arguments": json.dumps(arguments)}]}


def echo(request: Frame) -> Frame:
    """Answer differently to different requests, and alike to equal ones."""
    digest = hashlib.sha256(told(request).encode()).hexdigest()[:8]
    return answer(f"Answer {digest}.")


class ScriptedHost:
    """Answers a crew process. `complete` answers model calls; `handlers` answers other methods."""

    def __init__(self, complete: Reply = echo, handlers: Mapping[str, Reply] | None = None) -> None:
        self.complete = complete
        self.handlers = dict(handlers or {})
        self.log: list[tuple[str, Frame]] = []
        self.failures: list[BaseException] = []
        self.tool_journal: dict[str, Frame] = {}
        self.memories: list[Frame] = []

    def calls(self, method: str) -> list[Frame]:
        return [params for name, params in self.log if name == method]

    @property
    def requests(self) -> list[Frame]:
        return [params["request"] for params in self.calls("llm.complete")]

    async def handle(self, method: str, params: Frame) -> Any:
        self.log.append((method, params))
        reply = self.handlers.get(method) or self._default(method)
        result = reply(params["request"]) if method == "llm.complete" else reply(params)
        return await result if asyncio.iscoroutine(result) else result

    def _default(self, method: str) -> Reply:
        defaults: dict[str, Reply] = {
            "llm.complete": self.complete,
            "embed": lambda params: {"vectors": [bag_of_letters(text) for text in params["texts"]]},
            "tool.begin": self._begin_tool,
            "tool.end": self._end_tool,
            "memory.save": self._save,
            "memory.delete": self._delete,
            "memory.search": lambda _: {"results": [{"record": record, "similarity": 0.5} for record in self.memories]},
            "memory.scopes": lambda _: {"scopes": []},
            "memory.categories": lambda _: {"counts": {}},
        }
        return defaults.get(method, lambda _: {})

    def _begin_tool(self, params: Frame) -> Frame:
        known = self.tool_journal.get(params["key"])
        if known is None:
            return {"done": False, "output": "", "error": ""}
        return {"done": True, **known}

    def _end_tool(self, params: Frame) -> Frame:
        self.tool_journal[params["key"]] = {"output": params["output"], "error": params["error"]}
        return {}

    def _delete(self, params: Frame) -> Frame:
        left = [record for record in self.memories if record["id"] not in params["ids"]]
        deleted, self.memories = len(self.memories) - len(left), left
        return {"deleted": deleted}

    def _save(self, params: Frame) -> Frame:
        ids = {record["id"] for record in params["records"]}
        self.memories = [record for record in self.memories if record["id"] not in ids] + params["records"]
        return {}


def bag_of_letters(text: str) -> list[float]:
    """A vector of unit length: texts with the same letters are alike."""
    counts = [float(text.lower().count(chr(ord("a") + index))) for index in range(26)]
    length = sum(count * count for count in counts) ** 0.5 or 1.0
    return [count / length for count in counts]


class Segment:
    """Runs tasks in one crew process, as a host would."""

    def __init__(self, process: CrewProcess, spec: CrewSpec) -> None:
        self.process = process
        self.spec = spec
        self.outputs: dict[int, Frame] = {}

    async def task(self, index: int, **params: Any) -> Frame:
        """Do one task with the results it gets from those done before."""
        context = [
            {"name": self.spec.tasks[earlier].name, "text": output["text"], "agent_role": output["agent_role"]}
            for earlier, output in sorted(self.outputs.items())
            if self.spec.tasks[earlier].name in context_of(self.spec, index)
        ]
        call: Frame = {"task": index, "attempt": 1, "context": context}
        output: Frame = await self.process.call("task", call | params)
        self.outputs[index] = output
        return output

    async def all(self) -> Frame:
        """Do every task in order, one after the other, and return the last output."""
        output: Frame = {}
        for index in range(len(self.spec.tasks)):
            output = await self.task(index)
        return output


def context_of(spec: CrewSpec, index: int) -> set[str]:
    task: TaskSpec = spec.tasks[index]
    if task.context is not None:
        return set(task.context)
    return set() if task.async_execution else {earlier.name for earlier in spec.tasks[:index]}


@asynccontextmanager
async def segment(
    server: ForkServer,
    host: ScriptedHost,
    spec: CrewSpec,
    *,
    inputs: Mapping[str, Any] | None = None,
    models: Mapping[str, Frame] | None = None,
    execution_id: str = "execution-1",
) -> AsyncIterator[Segment]:
    """Open a crew process for a crew whose models are all `m`."""
    process = await server.fork(host.handle, host.failures.append)
    try:
        await process.call(
            "open",
            {
                "execution_id": execution_id,
                "spec": to_document(spec),
                "inputs": dict(inputs or {}),
                "models": dict(models or {"m": CAPABLE}),
            },
        )
        yield Segment(process, spec)
    except BaseException:
        await process.kill()
        raise
    else:
        await process.close()
    assert host.failures == []
