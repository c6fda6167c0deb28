"""What a gateway adds to a model call: ours, a bare gRPC forwarder and the LiteLLM proxy before one upstream.

Ways take turns in short rounds, so that whatever else the machine does weighs on all of them; medians of rounds count.
One worker each. The proxy needs an environment of its own, as it cannot be installed beside CrewAI:
`python3 -m venv DIR && DIR/bin/pip install 'litellm[proxy]==1.106.2'`, then `--proxy DIR`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import psutil
import uvloop

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1.inference_service_pb2_grpc import InferenceServiceStub
from tests.support.child_process import free_port
from tests.support.harness import ALICE

_ROUND_SECONDS = 1.0
_ROUNDS = 5
_MODEL = "openai/gpt-4o-mini"
_KEY = "sk-of-the-benchmark"
_START_SECONDS = 180.0
_MIB = 2**20

Call = Callable[[], Awaitable[Any]]


@dataclass
class Way:
    """One way to the upstream, and what its rounds gave."""

    name: str
    call: Call
    process: psutil.Process
    """Whose CPU is counted."""
    rates: list[float] = field(default_factory=list)
    """Calls per second."""
    medians: list[float] = field(default_factory=list)
    """Milliseconds."""
    slowest: list[float] = field(default_factory=list)
    """Milliseconds that 99 of 100 calls kept within."""
    cpu: list[float] = field(default_factory=list)
    """Microseconds of the process and its children per call."""


async def _round(way: Way, concurrency: int, seconds: float) -> None:
    stop_at = time.perf_counter() + seconds
    taken: list[float] = []

    async def caller() -> None:
        while (started := time.perf_counter()) < stop_at:
            await way.call()
            taken.append((time.perf_counter() - started) * 1000)

    before, started = _cpu_seconds(way.process), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    elapsed, used = time.perf_counter() - started, _cpu_seconds(way.process) - before
    taken.sort()
    way.rates.append(len(taken) / elapsed)
    way.medians.append(statistics.median(taken))
    way.slowest.append(taken[min(len(taken) - 1, int(len(taken) * 0.99))])
    way.cpu.append(used / len(taken) * 1e6)


def _cpu_seconds(process: psutil.Process) -> float:
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def _grpc_calls(address: str, question: str) -> tuple[Call, Call]:
    """Return a whole and a streamed call of an inference service."""
    stub: Any = InferenceServiceStub(grpc.aio.insecure_channel(address))
    metadata = (("authorization", f"Bearer {ALICE}"),)
    message = pb.Message(role=pb.MESSAGE_ROLE_USER, content=[pb.ContentPart(text=question)])
    completion = pb.Completion(model=_MODEL, messages=[message])
    whole, streamed = pb.CompleteRequest(completion=completion), pb.StreamCompleteRequest(completion=completion)

    async def stream() -> None:
        async for _ in stub.StreamComplete(streamed, metadata=metadata):
            pass

    return lambda: stub.Complete(whole, metadata=metadata), stream


def _http_calls(session: aiohttp.ClientSession, address: str, question: str) -> tuple[Call, Call]:
    """Return a whole and a streamed call of an address that speaks OpenAI's interface."""
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": question}]}

    async def call(**more: Any) -> None:
        headers = {"Authorization": f"Bearer {_KEY}"}
        async with session.post(f"{address}/v1/chat/completions", json=body | more, headers=headers) as response:
            response.raise_for_status()
            await response.read()

    return call, lambda: call(stream=True)


async def _measure(processes: "Processes", concurrencies: Sequence[int], rounds: int, seconds: float) -> None:
    kinds = (("whole", 0, ""), ("streamed, events together", 1, ""), ("streamed, events 2 ms apart", 1, "apart"))
    # The proxy closes connections that have been idle for five seconds, as they are while others have their turns.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
    async with aiohttp.ClientSession(connector=connector) as session:
        for what, position, word in kinds:
            question = f"What is the capital of France? {word}"
            calls = {
                "upstream itself": _http_calls(session, processes.upstream, question),
                "bare forwarder": _grpc_calls(processes.forwarder, question),
                "ours": _grpc_calls(processes.ours, question),
            }
            if processes.proxy:
                calls["LiteLLM proxy"] = _http_calls(session, processes.proxy, question)
            for concurrency in concurrencies:
                ways = [Way(name, call[position], processes.measured[name]) for name, call in calls.items()]
                for way in ways:
                    await way.call()
                for _ in range(rounds):
                    for way in ways:
                        await _round(way, concurrency, seconds)
                _print_table(f"{what}, {concurrency} at once", ways)


def _print_table(title: str, ways: Sequence[Way]) -> None:
    floor = statistics.median(ways[0].medians), statistics.median(ways[0].slowest)
    print(f"\n{title:38}{'calls/s':>9}{'added p50':>11}{'added p99':>11}{'CPU a call':>12}")
    for way in ways:
        print(
            f"{way.name:38}{statistics.median(way.rates):9.0f}{statistics.median(way.medians) - floor[0]:8.2f} ms"
            f"{statistics.median(way.slowest) - floor[1]:8.2f} ms{statistics.median(way.cpu):9.0f} us"
        )
    rates, cpu = ({way.name: statistics.median(getattr(way, kind)) for way in ways} for kind in ("rates", "cpu"))
    for other in ("bare forwarder", "LiteLLM proxy"):
        if other in rates:
            print(
                f"ours of the {other}: calls/s {rates['ours'] / rates[other]:.2f}, CPU {cpu['ours'] / cpu[other]:.2f}"
            )


async def _measure_memory(processes: "Processes", calls: int) -> None:
    """Print the resident memory of our process while it serves many calls: whole and streamed by turns."""
    whole, streamed = _grpc_calls(processes.ours, "What is the capital of France?")
    process = processes.measured["ours"]
    print(f"\n{'calls':>9}{'memory of ours':>18}")
    made = 0
    while True:
        print(f"{made:9}{process.memory_info().rss / _MIB:14.0f} MiB", flush=True)
        if made >= calls:
            return
        stop_at = made + max(1, calls // 20)

        async def caller(stop_at: int) -> None:
            nonlocal made
            while made < stop_at:
                made += 1
                await (whole if made % 2 else streamed)()

        await asyncio.gather(*(caller(stop_at) for _ in range(32)))


@dataclass
class Processes:
    """Addresses of what is compared."""

    upstream: str
    forwarder: str
    ours: str
    proxy: str
    """Empty without one."""
    measured: dict[str, psutil.Process]


@contextlib.contextmanager
def _started(directory: Path, proxy: Path | None) -> Iterator[Processes]:
    with contextlib.ExitStack() as stack:

        def start(command: Sequence[str], **environment: str) -> tuple[psutil.Process, Any]:
            process = stack.enter_context(
                subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            return psutil.Process(process.pid), process.stdout

        def address(output: Any) -> str:
            return str(output.readline().strip()) or sys.exit("a process did not start")

        upstream_process, output = start([sys.executable, "-m", "benchmarks.gateway.upstream"])
        upstream = address(output)
        forwarder_process, output = start([sys.executable, "-m", "benchmarks.gateway.forwarder", upstream])
        forwarder = address(output)
        ours_process, output = start(
            [sys.executable, "-m", "benchmarks.gateway.ours", str(directory)],
            OPENAI_API_KEY=_KEY,
            OPENAI_BASE_URL=f"{upstream}/v1",
        )
        ours = address(output)
        measured = {"upstream itself": upstream_process, "bare forwarder": forwarder_process, "ours": ours_process}
        proxy_address = ""
        if proxy is not None:
            port = free_port()
            model = {"model": "openai/gpt-4o-mini", "api_base": f"{upstream}/v1", "api_key": _KEY}
            settings = {
                "model_list": [{"model_name": "gpt-4o-mini", "litellm_params": model}],
                "general_settings": {"master_key": _KEY},
            }
            config = directory / "proxy.yaml"
            config.write_text(json.dumps(settings))
            command = [str(proxy / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1"]
            log = stack.enter_context((directory / "proxy.log").open("w"))
            process = stack.enter_context(
                subprocess.Popen(
                    [*command, "--port", str(port), "--num_workers", "1"],
                    env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
                    stdout=log,
                    stderr=log,
                )
            )
            stack.callback(process.kill)
            measured["LiteLLM proxy"] = psutil.Process(process.pid)
            proxy_address = f"http://127.0.0.1:{port}"
        yield Processes(upstream, forwarder, ours, proxy_address, measured)


async def _wait_for(address: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{address}/health/liveliness") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.5)
    sys.exit("the LiteLLM proxy did not start")


async def _run(processes: Processes, arguments: argparse.Namespace) -> None:
    if processes.proxy:
        await _wait_for(processes.proxy)
    if arguments.rounds:
        await _measure(processes, arguments.concurrency, arguments.rounds, arguments.seconds)
    for name, process in processes.measured.items():
        print(f"resident memory, {name}: {process.memory_info().rss / _MIB:.0f} MiB")
    if arguments.memory_calls:
        await _measure_memory(processes, arguments.memory_calls)


def main() -> None:
    """Start everything and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32, 128], help="calls at once")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="rounds of each way; 0: none")
    parser.add_argument("--seconds", type=float, default=_ROUND_SECONDS, help="length of a round")
    parser.add_argument("--memory-calls", type=int, default=0, help="then watch the memory over so many calls of ours")
    parser.add_argument("--proxy", type=Path, help="environment in which the LiteLLM proxy is installed")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        _started(Path(directory), arguments.proxy) as processes,
    ):
        uvloop.run(_run(processes, arguments))


if __name__ == "__main__":
    main()
