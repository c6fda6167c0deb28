"""Runs commands as a person in a pipe does."""

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from coxswain.client.cli.app import app
from tests.support.harness import ALICE

CREW = """\
name: brief
model: offline/extract
agents:
  reader:
    role: Reader
    goal: Read
tasks:
  extract:
    description: Read {text}
    expected_output: Five sentences
    agent: reader
memory: true
"""

# A shell that runs the tests in the background has their children ignore interrupts.
INTERRUPTIBLE = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("coxswain.client", run_name="__main__", alter_sys=True)
"""
"""The command line as a program for `python -c`."""


def rewrite(path: str, old: str, new: str) -> None:
    """Store CREW in a file with a part replaced."""
    Path(path).write_text(CREW.replace(old, new))


def invoke(address: str, *arguments: str, token: str = ALICE, stdin: str | None = None) -> Result:
    """What a person in a pipe sees."""
    return CliRunner().invoke(app, ["--address", address, "--token", token, *arguments], input=stdin)


@dataclass(frozen=True)
class Run:
    """Runs commands against one installation, as an admin of one group unless a token says otherwise."""

    address: str
    token: str = ALICE

    async def __call__(self, *arguments: str, token: str = "", stdin: str | None = None) -> Result:
        return await asyncio.to_thread(invoke, self.address, *arguments, token=token or self.token, stdin=stdin)


def rows(result: Result) -> list[Any]:
    """The lines of JSON a command printed."""
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]
