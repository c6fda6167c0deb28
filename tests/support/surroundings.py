"""What there is around contained processes, for the attempts at it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from services.common.containment.contain import Measure
from tests.support.attempts import Surroundings

_REFUSED = {"EPERM", "EACCES", "EXDEV", "ENOSYS"}


@asynccontextmanager
async def surroundings(directory: Path, sibling: int, sibling_file: Path) -> AsyncIterator[Surroundings]:
    """Yield what there is: a key in the directory, listeners, and a process in the place of the host.

    Not the test itself: what an attempt does to it, should it not be refused, must not stop the tests.
    """
    key = directory / "keys" / "services" / "orchestrator.key"
    key.parent.mkdir(parents=True)
    key.write_text("a key")
    host = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unix:
            tcp.bind(("127.0.0.1", 0))
            tcp.listen()
            path = directory / "listener"
            unix.bind(str(path))
            unix.listen()
            yield Surroundings(host.pid, sibling, str(key), str(sibling_file), str(path), tcp.getsockname()[1])
    finally:
        host.kill()
        await host.wait()


def not_refused(found: Mapping[str, tuple[str, str]], holding: set[Measure]) -> dict[str, str]:
    """Return the attempts that were not refused although the measure holds that refuses them."""
    assert len(found) > 90
    expected = {name: outcome for name, (measure, outcome) in found.items() if measure in holding}
    return {name: outcome for name, outcome in expected.items() if outcome not in _REFUSED}
