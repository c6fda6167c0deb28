"""What traces cost a call: the smallest unary call of auth with traces off, with one trace in twenty, and with all.

Each is a server of its own, and they take turns in short rounds, so that whatever else the machine does weighs on all
of them. Spans go to a collector in the process that calls. Beside calls stands a span that is asked for while traces
are off, and one that is recorded, each in a loop of its own.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import uvloop

from services.common.logging import configure_logging
from services.common.tracing.spans import span, switch_off, switch_on
from tests.support.harness import ALICE, serve_services
from tests.support.otlp_receiver import OtlpReceiver

_CONCURRENCY = 32
_ROUND_SECONDS = 0.3
_ROUNDS = 25
_SPANS = 200_000
_WHO_AM_I = "/coxswain.auth.v1.AuthService/WhoAmI"
_RATIO = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.05"}


@dataclass
class Probe:
    """One server and what its rounds gave."""

    name: str
    address: str
    process: psutil.Process
    rates: list[float] = field(default_factory=list)
    """Calls per second."""
    cpu: list[float] = field(default_factory=list)
    """Microseconds of the server's CPU per call."""

    async def round(self) -> None:
        """Call from many callers at once for a moment."""
        metadata = (("authorization", f"Bearer {ALICE}"),)
        async with grpc.aio.insecure_channel(self.address) as channel:
            call: Any = channel.unary_unary(_WHO_AM_I)
            await call(b"", metadata=metadata)
            stop_at = time.perf_counter() + _ROUND_SECONDS
            done = 0

            async def caller() -> None:
                nonlocal done
                while time.perf_counter() < stop_at:
                    await call(b"", metadata=metadata)
                    done += 1

            before, started = self.process.cpu_times(), time.perf_counter()
            await asyncio.gather(*(caller() for _ in range(_CONCURRENCY)))
            elapsed, after = time.perf_counter() - started, self.process.cpu_times()
        self.rates.append(done / elapsed)
        self.cpu.append((after.user + after.system - before.user - before.system) / done * 1e6)


def _trace() -> None:
    from services.common.tracing.otlp import OtlpTracer

    switch_on(OtlpTracer("auth"))


async def _serve(directory: Path) -> None:
    """Serve auth until standard input closes."""
    configure_logging("WARNING", service="auth")
    if os.environ.get("COXSWAIN_TRACES") == "otlp":
        _trace()
    async with serve_services(directory) as harness:
        print(harness.address, flush=True)
        await asyncio.to_thread(sys.stdin.read)


@contextlib.contextmanager
def _server(name: str, environment: Mapping[str, str]) -> Iterator[Probe]:
    with (
        tempfile.TemporaryDirectory() as directory,
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.traces", "--serve", directory],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as server,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        if not address:
            sys.exit("auth did not start")
        yield Probe(name, address, psutil.Process(server.pid))
        server.stdin.close()


async def _measure(probes: list[Probe]) -> None:
    for probe in probes:
        await probe.round()
        probe.rates.clear()
        probe.cpu.clear()
    for _ in range(_ROUNDS):
        for probe in probes:
            await probe.round()
    floor = probes[0]
    print(f"{'WhoAmI':32}{'calls/s':>9}{'of off':>9}{'best':>9}{'of off':>9}{'server CPU':>12}{'beyond off':>12}")
    for probe in probes:
        middle, best, cpu = statistics.median(probe.rates), max(probe.rates), min(probe.cpu)
        print(
            f"{probe.name:32}{middle:9.0f}{middle / statistics.median(floor.rates):9.2f}"
            f"{best:9.0f}{best / max(floor.rates):9.2f}{cpu:9.0f} us{cpu - min(floor.cpu):9.0f} us"
        )


def _microseconds_of_a_span(number: int) -> float:
    began = time.perf_counter()
    for _ in range(number):
        with span("work", attributes={"a": 1}):
            pass
    return (time.perf_counter() - began) / number * 1e6


def main() -> None:
    """Start the servers and measure, or be one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        uvloop.run(_serve(arguments.serve))
        return
    with OtlpReceiver() as collector:
        on = collector.environment
        with (
            _server("off", {"COXSWAIN_TRACES": "off"}) as off,
            _server("one in twenty", on | _RATIO) as some,
            _server("all", on) as every,
        ):
            uvloop.run(_measure([off, some, every]))
        without = _microseconds_of_a_span(_SPANS)
        os.environ |= on
        _trace()
        recorded = _microseconds_of_a_span(_SPANS // 20)
        switch_off()
        print(f"a span: {without:.2f} us while traces are off, {recorded:.0f} us recorded")


if __name__ == "__main__":
    main()
