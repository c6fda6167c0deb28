"""The tool gateway as a process of its own, beside services of the test's process."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from services.common.grpc.peers import Peers
from services.common.identity.service_identity import ServiceIdentity
from tests.support.child_process import ChildProcess, scrubbed_environment
from tests.support.harness import Harness
from tests.support.tool_gateway import GatewayCaller


class GatewayProcess:
    """`python -m services.orchestrator.tool_gateway` on the database of a harness."""

    def __init__(self, harness: Harness, environment: Mapping[str, str] | None = None) -> None:
        """`environment` is added to one that lets tools call this machine. Nothing is started yet."""
        self.socket = Path(harness.internal_address.removeprefix("unix:")).with_name("tools.sock")
        self._environment = scrubbed_environment(
            harness.data_dir,
            COXSWAIN_DATA_DIR=str(harness.data_dir),
            COXSWAIN_AUTH_ADDRESS=harness.internal_address,
            COXSWAIN_TOOLS_PORT="0",
            COXSWAIN_TOOLS_LEASE_SECONDS="3",
            COXSWAIN_TOOLS_EGRESS_ALLOWED_NETWORKS='["127.0.0.0/8"]',
            COXSWAIN_DRAIN_SECONDS="1",
            **(environment or {}),
        )
        self.process: ChildProcess | None = None

    def start(self) -> None:
        """Start it and wait until it serves."""
        self.socket.unlink(missing_ok=True)
        arguments = ["-m", "services.orchestrator.tool_gateway", "--internal-address", f"unix:{self.socket}"]
        self.process = ChildProcess("tools", arguments, self._environment)
        self.process.wait_for_line("serving on")

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()

    @contextlib.asynccontextmanager
    async def caller(self, harness: Harness) -> AsyncIterator[GatewayCaller]:
        """Call it as a worker host does."""
        identity = ServiceIdentity.load(harness.data_dir / "keys", "orchestrator", create=False)
        peers = Peers({"tools": f"unix:{self.socket}"}, identity, timeout_seconds=30, max_message_bytes=4 * 1024 * 1024)
        try:
            yield GatewayCaller(peers, harness.channel(""))
        finally:
            await peers.close()
