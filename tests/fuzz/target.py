"""The one-port suite as it is fuzzed: with emulated upstreams, and with a way to look at what it holds."""

import asyncio
import contextlib
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.common.identity.service_identity import ServiceIdentity
from services.common.settings import PARTS, SERVICES
from tests.support.child_process import ChildProcess
from tests.support.databricks_workspace import DatabricksWorkspace
from tests.support.llm_emulator import LlmEmulator
from tests.support.suite_process import SuiteProcess

_HELD = re.compile(r"held: tasks=(\d+) memory=(\d+) descriptors=(\d+) threads=(\d+)")
# Lines of a log that tell of a fault of ours.
_FAULTS = re.compile(
    r'"event": "call_failed"|Traceback \(most recent call last\)|Task exception was never retrieved'
    r'|"level": "(error|critical)"'
)
_LONGEST_LINE = 4_000
_MOST_LOOKS = 20


@dataclass(frozen=True)
class Held:
    """What the process that serves the API holds."""

    tasks: int
    """Tasks of its event loop."""
    memory: int
    """Resident bytes, after garbage was collected and free memory given back."""
    descriptors: int
    threads: int


class FuzzedSuite(SuiteProcess):
    """A suite that tells what it holds."""

    workspace_url = ""
    """The emulated workspace, where backends of memory may be."""

    def launch(self) -> ChildProcess:
        return ChildProcess("suite", ["-m", "tests.fuzz.watched_suite", *self._arguments], self.environment())

    def held(self) -> Held:
        """Ask the process what it holds.

        Raises:
            AssertionError: it did not answer.
        """
        process = self._running()
        before = len(_HELD.findall(process.output))
        process.signal(signal.SIGUSR1)
        deadline = time.monotonic() + 60
        while len(found := _HELD.findall(process.output)) == before:
            if time.monotonic() > deadline:
                raise AssertionError(f"the suite does not say what it holds:\n{process.tail}")
            time.sleep(0.05)
        return Held(*map(int, found[-1]))

    def logged_faults(self, after_line: int = 0) -> list[str]:
        """Return the lines from one on that tell of a fault of ours, each cut."""
        lines = self._running().lines[after_line:]
        return [line[:_LONGEST_LINE] for line in lines if _FAULTS.search(line)]

    def starved_seconds(self) -> float:
        """Return for how long its event loop has been ready to run and got no processor, on a kernel that tells."""
        try:
            waited = Path(f"/proc/{self._running().pid}/schedstat").read_text().split()[1]
        except (OSError, IndexError):
            return 0.0
        return int(waited) / 1e9

    @property
    def line_count(self) -> int:
        return len(self._running().lines)

    def service_keys(self) -> dict[str, ServiceIdentity]:
        """Return the keys that services prove with who they are."""
        keys = self.data_dir / "keys"
        return {name: ServiceIdentity.load(keys, name, create=True) for name in (*SERVICES, *PARTS)}


@contextlib.contextmanager
def fuzzed_suite(directory: Path, database_url: str = "", *, workers: int = 0) -> Iterator[FuzzedSuite]:
    """Run a suite on SQLite, or on the PostgreSQL database that the URL leads to."""
    with LlmEmulator() as llm, DatabricksWorkspace() as workspace:
        bot = workspace.identity.add_user("bot@example.com")
        workspace.identity.add_pat(bot, "token-of-the-operator")
        environment = {
            "OPENAI_API_KEY": "sk-emulated-0123456789",
            "OPENAI_BASE_URL": f"{llm.url}/v1",
            "DATABRICKS_HOST": workspace.url,
            "DATABRICKS_TOKEN": "token-of-the-operator",
            "COXSWAIN_MEMORY_PROVISION_POLL_SECONDS": "0.05",
            "COXSWAIN_LOG_LEVEL": "WARNING",
            # As in the images.
            "MALLOC_ARENA_MAX": "2",
        }
        if database_url:
            environment |= {"COXSWAIN_DATABASE_URL": database_url, "COXSWAIN_MIGRATE": "auto"}
        for part in ("AUTH", "MODELS", "MEMORY", "TOOLS"):
            environment[f"COXSWAIN_{part}_EGRESS_ALLOWED_NETWORKS"] = '["127.0.0.0/8"]'
        suite = FuzzedSuite(directory / "data", workers=workers, environment=environment)
        suite.workspace_url = workspace.url
        with suite.running():
            yield suite


async def settled(suite: FuzzedSuite) -> Held:
    """Return what the suite holds once what calls have left behind has ended."""
    held = await asyncio.to_thread(suite.held)
    for _ in range(20):
        await asyncio.sleep(0.5)
        before, held = held, await asyncio.to_thread(suite.held)
        if held.tasks >= before.tasks and held.descriptors >= before.descriptors:
            break
    return held


async def not_given_back(suite: FuzzedSuite, before: Held) -> list[str]:
    """Return what a suite goes on holding more of than `before`, beyond what caches, pools and chance explain.

    What gRPC keeps of connections that have ended goes some seconds after them.
    """
    more = _more(before, await settled(suite))
    for _ in range(_MOST_LOOKS):
        if not more:
            break
        await asyncio.sleep(1)
        more = _more(before, await settled(suite))
    return more


def _more(before: Held, after: Held) -> list[str]:
    return [
        f"{name} not given back: {old:,} before, {new:,} after"
        for name, old, new, room in (
            ("tasks", before.tasks, after.tasks, 30),
            ("memory", before.memory, after.memory, before.memory // 4 + 64 * 1024 * 1024),
            ("descriptors", before.descriptors, after.descriptors, 60),
            ("threads", before.threads, after.threads, 30),
        )
        if new > old + room
    ]
