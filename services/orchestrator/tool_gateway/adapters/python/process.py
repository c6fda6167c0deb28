"""The tool process: loads one entry point of the group `coxswain.tools` and makes calls of its tools, one at a time.

It is run by its path, in isolation, and by an interpreter that may have nothing of Coxswain installed: Python 3.10 is
all that it needs. Frames in both directions are four bytes of length (big-endian), then JSON. Its argument is a JSON
object with the entry point and the limits.

What it writes first is `loaded` with the tools, or `failed`. To each `call` it writes any number of `progress`, then
one of `result`, `tool_error` (the tool says what was wrong) and `exception` (nobody knows what it did before). All of
them name the `call_id`: threads that a tool leaves behind may still speak when the next call is made.
"""

import asyncio
import base64
import ctypes
import importlib.util
import inspect
import json
import math
import os
import queue
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

GROUP = "coxswain.tools"
_LENGTH_BYTES = 4
_MIB = 1024 * 1024
_OPEN_FILES = 256
_SET_DUMPABLE, _SET_NO_NEW_PRIVILEGES = 4, 38
_FILE_BYTES = 64 * _MIB
_MAX_ERROR = 4096
_MAX_TEXT = 64 * 1024
"""Characters of an error or of progress. The gateway shows less: only there are secrets out, whole or at a cut."""
_PROGRESS_SECONDS = 0.1

Frame = dict[str, Any]


class ToolError(Exception):
    """Raised by a tool: the call failed in a way that the model can do something about. The text says what and how."""


class Context:
    """What a tool is told of its call, and where it tells of it."""

    ToolError = ToolError

    def __init__(self, pipes: "Pipes", call: Frame) -> None:
        about = call["context"]
        self.call_id = call["call_id"]
        """Identity of the call, the same on every repetition."""
        self.group = about.get("group", "")
        self.subject = about.get("subject", "")
        self.execution = about.get("execution", "")
        self.labels = about.get("labels", {})
        self.secrets = call["secrets"]
        """Values of what the tool's `needs_secrets` names."""
        self.files: list[Frame] = []
        self._pipes = pipes
        self._progress_sent_at = -math.inf
        self._ended = False

    def progress(self, text: str = "", fraction: float | None = None) -> None:
        """Say that the call goes on, which extends its time. What comes faster than ten times a second is left out."""
        now = time.monotonic()
        if now - self._progress_sent_at >= _PROGRESS_SECONDS and not self._ended:
            self._progress_sent_at = now
            known = float(fraction) if fraction is not None and math.isfinite(fraction) else None
            shown = {"text": str(text)[:_MAX_TEXT], "fraction": known}
            self._pipes.write({"kind": "progress", "call_id": self.call_id} | shown)

    def file(self, name: str, media_type: str, content: bytes) -> None:
        """Keep a file that the call has made; it becomes an artifact of the execution."""
        self.files.append({"name": str(name), "media_type": str(media_type), "content": bytes(content)})

    def end(self) -> None:
        """Take no more progress: the call is over, and a thread that goes on speaks of nothing that anybody follows."""
        self._ended = True


async def in_thread(call: Any, *arguments: Any, **named: Any) -> Any:
    """Return what a blocking call returns."""

    def run() -> Any:
        try:
            return call(*arguments, **named)
        except StopIteration as error:
            # No future holds one: whoever waits for it would wait for ever.
            raise RuntimeError(f"the tool raised StopIteration: {error}") from error

    return await asyncio.to_thread(run)


class PlainTool:
    """A function, or an object with a method `call`; what describes it are its attributes."""

    def __init__(self, given: Any) -> None:
        if inspect.isclass(given):
            given = given()
        self._call: Any = given.call if hasattr(given, "call") else given
        if not callable(self._call):
            raise TypeError(f"{given!r} is neither a function nor an object with a method `call`")
        self.name = str(getattr(given, "name", None) or getattr(given, "__name__", ""))
        self.description = getattr(given, "description", None) or inspect.getdoc(given) or ""
        self.input_schema = getattr(given, "input_schema", None)
        self.output_schema = getattr(given, "output_schema", None)
        self.idempotent = getattr(given, "idempotent", None)
        self.needs_secrets: list[str] = list(getattr(given, "needs_secrets", ()))

    async def call(self, arguments: Frame, context: Context) -> Any:
        if inspect.iscoroutinefunction(self._call):
            returned = await self._call(arguments, context)
        else:
            returned = await in_thread(self._call, arguments, context)
        if inspect.isawaitable(returned):
            returned = await returned
        # What makes its result piece by piece has done nothing yet.
        if inspect.isasyncgen(returned):
            return [item async for item in returned]
        return await in_thread(list, returned) if inspect.isgenerator(returned) else returned


class CrewAITool:
    """A BaseTool of CrewAI. The secrets are in its environment during a call, as such tools expect."""

    output_schema = None
    idempotent = None

    def __init__(self, tool: Any) -> None:
        self._tool = tool
        self.name = tool.name
        self.description = tool.description
        self.input_schema = tool.args_schema.model_json_schema() if tool.args_schema else None
        self.needs_secrets = [each.name for each in getattr(tool, "env_vars", ()) if each.required]

    async def call(self, arguments: Frame, context: Context) -> Any:
        os.environ.update(context.secrets)
        try:
            returned = await in_thread(self._tool.run, **arguments)
        finally:
            for name in context.secrets:
                os.environ.pop(name, None)
        failure = getattr(sys.modules.get("crewai.tools.tool_failure"), "ToolFailure", None)
        if failure is not None and isinstance(returned, failure):
            raise ToolError(returned.message)
        return returned


Tool = PlainTool | CrewAITool


class Pipes:
    """The frames; a tool may write from any of its threads."""

    def __init__(self, inbound: BinaryIO, outbound: BinaryIO, max_bytes: int) -> None:
        self._inbound = inbound
        self._outbound = outbound
        self._max_bytes = max_bytes
        self._lock = threading.Lock()

    def read(self) -> Frame | None:
        """Return the next frame, or None when the other end is gone."""
        header = self._inbound.read(_LENGTH_BYTES)
        if len(header) < _LENGTH_BYTES:
            return None
        length = int.from_bytes(header, "big")
        data = self._inbound.read(length)
        return dict(json.loads(data)) if len(data) == length else None

    def write(self, frame: Frame) -> None:
        """Write a frame, or in the place of one that is too large how large it is."""
        data = json.dumps(frame, allow_nan=False).encode()
        if len(data) > self._max_bytes:
            too_large = {"kind": "too_large", "bytes": len(data), "call_id": frame.get("call_id", "")}
            data = json.dumps(too_large).encode()
        with self._lock:
            self._outbound.write(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
            self._outbound.flush()


def load(name: str) -> dict[str, Tool]:
    """Return the tools of an entry point by their names."""
    found = list(metadata.entry_points(group=GROUP, name=name))
    if not found:
        known = ", ".join(sorted({entry.name for entry in metadata.entry_points(group=GROUP)})) or "none"
        raise LookupError(f"no entry point {name!r} of the group {GROUP} is installed for {sys.executable}: {known}")
    given = found[0].load()
    tools: dict[str, Tool] = {}
    for each in given if isinstance(given, (list, tuple)) else [given]:
        tool = wrapped(each)
        if tool.name in tools:
            raise ValueError(f"two tools have the name {tool.name!r}")
        tools[tool.name] = tool
    return tools


def wrapped(given: Any) -> Tool:
    """Return a tool in the form that is called here."""
    # Whoever gives a BaseTool has imported its module.
    base = getattr(sys.modules.get("crewai.tools.base_tool"), "BaseTool", None)
    if base is not None and inspect.isclass(given) and issubclass(given, base):
        given = given()
    return CrewAITool(given) if base is not None and isinstance(given, base) else PlainTool(given)


def described(tool: Tool) -> Frame:
    """Return what is told of a tool."""
    return {
        "name": tool.name,
        "description": tool.description,
        "input_schema": tool.input_schema,
        "output_schema": tool.output_schema,
        "idempotent": tool.idempotent,
        "needs_secrets": tool.needs_secrets,
    }


async def made(tools: Mapping[str, Tool], pipes: Pipes, call: Frame) -> Frame:
    """Make a call and return the frame of its end."""
    context = Context(pipes, call)
    end = {"call_id": call["call_id"]}
    try:
        returned = result(await tools[call["tool"]].call(call["arguments"], context))
    except ToolError as error:
        return end | {"kind": "tool_error", "text": said(error)}
    except Exception as error:  # noqa: BLE001 - whatever a tool raises is what there is to say of it
        return end | {"kind": "exception", "text": f"{type(error).__name__}: {said(error)}"}
    finally:
        context.end()
    files = [file | {"content": base64.b64encode(file["content"]).decode()} for file in context.files]
    return end | {"kind": "result", "files": files} | returned


def said(error: Exception) -> str:
    """Return what an error says, if it can."""
    try:
        return str(error)[:_MAX_TEXT]
    except Exception:  # noqa: BLE001 - classes of tools may be broken in any way
        return "(it has no text)"


def result(returned: Any) -> Frame:
    """Return what a tool returned as text, and as JSON where it is some."""
    if returned is None or isinstance(returned, str):
        return {"text": returned or "", "structured": None}
    if hasattr(returned, "model_dump"):
        returned = returned.model_dump(mode="json")
    try:
        json.dumps(returned, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return {"text": str(returned), "structured": None}
    return {"text": "", "structured": returned}


def limit(limits: Frame) -> None:
    """Hold this process to its limits. They stop mistakes; code that wants to can raise its share of processor time."""
    memory = limits["memory_mib"] * _MIB
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def keep_private() -> None:
    """Where the kernel can, keep other processes of this user out of the secrets of calls, and let no program that a
    tool starts have more rights.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        library.prctl(_SET_NO_NEW_PRIVILEGES, *map(ctypes.c_ulong, (1, 0, 0, 0)))
        library.prctl(_SET_DUMPABLE, *map(ctypes.c_ulong, (0, 0, 0, 0)))


def allow_processor_time(seconds: int) -> None:
    """Let the next call use this much; the kernel ends the process after it."""
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used) + seconds, resource.RLIM_INFINITY))


def end_with_parent(pipes: Pipes, calls: "queue.SimpleQueue[Frame]", remove_tree: Callable[[Path], None]) -> None:
    """Pass calls on until the other end is gone, then end at once, with every process that a tool has started."""
    directory = Path(os.environ["HOME"])
    try:
        while (frame := pipes.read()) is not None:
            calls.put(frame)
        # Nobody else is left to remove what tools have written there.
        remove_tree(directory)
    finally:
        os.killpg(0, signal.SIGKILL)


def removal(file: str) -> Callable[[Path], None]:
    """Return the gateway's own function that removes a directory, from its file: its packages may not be here."""
    spec = importlib.util.spec_from_file_location("remove_tree", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    remove: Callable[[Path], None] = module.remove_tree
    return remove


def serve(pipes: Pipes, given: Frame) -> None:
    """Load the tools and make calls for ever."""
    calls: queue.SimpleQueue[Frame] = queue.SimpleQueue()
    remove_tree = removal(given["remove_tree"])
    threading.Thread(target=end_with_parent, args=(pipes, calls, remove_tree), daemon=True).start()
    allow_processor_time(given["cpu_seconds"])
    try:
        tools = load(given["entry_point"])
        pipes.write({"kind": "loaded", "tools": [described(tool) for tool in tools.values()]})
    except Exception as error:  # noqa: BLE001 - an entry point may raise anything while it is imported
        pipes.write({"kind": "failed", "text": f"{type(error).__name__}: {said(error)}"[:_MAX_ERROR]})
        return
    # One loop for all calls: clients that a tool keeps open belong to it.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    while True:
        call = calls.get()
        allow_processor_time(given["cpu_seconds"])
        pipes.write(loop.run_until_complete(made(tools, pipes, call)))


def main() -> None:
    given = json.loads(sys.argv[1])
    limit(given)
    keep_private()
    pipes = Pipes(os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb"), given["max_bytes"])
    # What a tool prints must not get between the frames, nor may it or its children read them.
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    serve(pipes, given)


if __name__ == "__main__":
    main()
