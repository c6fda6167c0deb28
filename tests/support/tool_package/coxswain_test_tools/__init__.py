"""Tools as an operator installs them."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ANYTHING = {"type": "object"}


async def greet(arguments: dict[str, Any], context: Any) -> str:
    """Greet somebody."""
    return f"Hello, {arguments['name']}"


greet.input_schema = {"type": "object", "properties": {"name": {"type": "string"}}}  # type: ignore[attr-defined]
greet.idempotent = True  # type: ignore[attr-defined]


class Looking:
    """Returns what a tool can see of its call and its surroundings."""

    name = "look"
    description = "Looks around."
    input_schema = ANYTHING
    idempotent = True
    needs_secrets = ("DESK_TOKEN",)

    async def call(self, arguments: dict[str, Any], context: Any) -> dict[str, Any]:
        print("this must not get between the frames")
        context.progress("looking", 0.5)
        context.file("../notes.txt", "text/plain", b"seen")
        return {
            "arguments": arguments,
            "environment": dict(os.environ),
            "secrets": context.secrets,
            "call_id": context.call_id,
            "group": context.group,
            "subject": context.subject,
            "labels": context.labels,
            "directory": str(Path.cwd()),
            "pid": os.getpid(),
            "status": await asyncio.to_thread(Path("/proc/self/status").read_text),
            "dumpable": ctypes.CDLL(None).prctl(3),
        }


class Failing:
    name = "fail"
    description = "Fails."
    input_schema = ANYTHING

    def call(self, arguments: dict[str, Any], context: Any) -> Any:
        match arguments["how"]:
            case "told":
                raise context.ToolError("there is no such invoice")
            case "raised":
                raise ConnectionError("lost in the middle")
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                sys.exit(3)
            case "object":
                return object()
            case "large":
                return "x" * (2 * 1024 * 1024)
            case "memory":
                return len(bytearray(1024**3))
            case "processor":
                while True:
                    pass
        return None


class Waiting:
    """Waits for ever with a child process, and says which processes these are."""

    name = "wait"
    description = "Waits."
    input_schema = ANYTHING

    async def call(self, arguments: dict[str, Any], context: Any) -> None:
        child = _sleeping()
        while True:
            context.progress(f"{os.getpid()} {child.pid} {Path.cwd()}")
            if arguments.get("blocking"):
                child.wait()
            await asyncio.sleep(0.2)


def _sleeping() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


TOOLS = [greet, Looking, Failing(), Waiting]
TWICE = [greet, greet]


class Odd:
    name = "a/b"
    description = "Has a name that no crew can write."
    input_schema = ANYTHING

    async def call(self, arguments: dict[str, Any], context: Any) -> None:
        """Nothing."""


ODD = Odd
