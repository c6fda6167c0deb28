"""Tools that do what no tool should."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

ANYTHING = {"type": "object"}


async def greet(arguments: dict[str, Any], context: Any) -> str:
    """Greet somebody."""
    return f"Hello, {arguments['name']}"


class Broken(Exception):
    def __str__(self) -> str:
        raise ValueError("not even this")


class Unreadable:
    def __str__(self) -> str:
        raise ValueError("not to be shown")


def _nothing_left(context: Any) -> Any:
    return next(iter(()))


def _recursion(context: Any) -> Any:
    return _recursion(context)


def _secret_at_the_cut(context: Any) -> Any:
    raise ConnectionError("x" * (4096 - len("ConnectionError: ") - 4) + context.secrets["DESK_TOKEN"])


def _broken(context: Any) -> Any:
    raise Broken


def _unreadable(context: Any) -> Any:
    return Unreadable()


def _flood(context: Any) -> str:
    for _ in range(2000):
        os.write(1, b"x" * 65536)
        os.write(2, b"x" * 65536)
    return "dry"


def _loud(context: Any) -> str:
    context.progress("y" * (4 * 1024 * 1024), float("nan"))
    return "said"


DEEDS: dict[str, Callable[[Any], Any]] = {
    "nothing left": _nothing_left,
    "recursion": _recursion,
    "secret at the cut": _secret_at_the_cut,
    "broken": _broken,
    "unreadable": _unreadable,
    "flood": _flood,
    "loud": _loud,
}


class Odd:
    name = "odd"
    description = "Does one of several odd things."
    input_schema = ANYTHING
    needs_secrets = ("DESK_TOKEN",)

    def call(self, arguments: dict[str, Any], context: Any) -> Any:
        return DEEDS[arguments["how"]](context)


class Deserting:
    """Is killed, and leaves a child that reads a pipe of the caller's."""

    name = "desert"
    description = "Deserts."
    input_schema = ANYTHING

    def call(self, arguments: dict[str, Any], context: Any) -> None:
        with Path(arguments["pipe"]).open("rb") as pipe:
            child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=pipe)
        context.progress(str(child.pid))
        os.kill(os.getpid(), signal.SIGKILL)


class Pieces:
    """Makes its result piece by piece."""

    name = "pieces"
    description = "Makes pieces."
    input_schema = ANYTHING

    def call(self, arguments: dict[str, Any], context: Any) -> Any:
        return _pieces() if arguments.get("blocking") else _pieces_in_time()


def _pieces() -> Iterator[str]:
    yield "one"
    yield "two"


async def _pieces_in_time() -> AsyncIterator[str]:
    yield "one"
    await asyncio.sleep(0)
    yield "two"


class Haunting:
    """Leaves a thread behind that speaks of its call while others are made."""

    name = "haunt"
    description = "Haunts."
    input_schema = ANYTHING

    def call(self, arguments: dict[str, Any], context: Any) -> str:
        def speak() -> None:
            while not context._ended:
                time.sleep(0.001)
            ghost = {"kind": "result", "call_id": context.call_id, "text": "boo", "structured": None, "files": []}
            while True:
                context._pipes.write(ghost)
                context.progress("boo")

        threading.Thread(target=speak, daemon=True).start()
        return "left"


TOOLS = [greet, Odd, Deserting, Pieces, Haunting]
