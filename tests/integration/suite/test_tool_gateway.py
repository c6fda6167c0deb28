"""The suite's tool gateway comes back when it ends, and ends with the suite."""

import asyncio
from pathlib import Path

import psutil
import pytest

from services.suite.tool_gateway import ToolGatewayProcess
from tests.support.child_process import scrubbed_environment


async def _process(gateway: ToolGatewayProcess, socket: Path, *, other_than: int = 0) -> psutil.Process:
    """Return the process, once it serves."""
    while True:
        process = gateway._process
        if process is not None and process.pid != other_than and await asyncio.to_thread(socket.exists):
            return psutil.Process(process.pid)
        await asyncio.sleep(0.05)


async def test_a_gateway_that_is_killed_is_started_again_and_stops_in_order(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    socket = tmp_path / "tools.sock"
    environment = scrubbed_environment(
        tmp_path, COXSWAIN_DATA_DIR=str(tmp_path / "data"), COXSWAIN_TOOLS_PORT="0", COXSWAIN_DRAIN_SECONDS="1"
    )
    gateway = ToolGatewayProcess(socket, environment)
    gateway.start()
    try:
        async with asyncio.timeout(100):
            first = await _process(gateway, socket)
            first.kill()
            second = await _process(gateway, socket, other_than=first.pid)
            await gateway.stop(30)
        assert not first.is_running()
        assert not second.is_running()
    finally:
        gateway.kill()
    written = capfd.readouterr().out
    assert "tools: tools serving on" in written
    assert "tool_gateway_ended" in written
    assert gateway._process is not None
    assert gateway._process.returncode == 0
