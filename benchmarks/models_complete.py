"""What models adds to an upstream call, beside the call itself and litellm, all against one emulated upstream.

Paths take turns in short rounds, so that whatever else the machine does weighs on all of them; medians of rounds count.
litellm is called as a library in this process, without the HTTP server, keys and configuration that its proxy puts
before it: the proxy is slower still.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import psutil
import uvloop

from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1 import inference_service_pb2_grpc, model_pb2, model_service_pb2_grpc
from services.common.logging import configure_logging
from services.models.settings import ModelsSettings
from tests.support.harness import ALICE, serve_services

_ROUND_SECONDS = 1.0
_ROUNDS = 5
_MODEL = "openai/gpt-4o-mini"
_ECHO = "/benchmark.Echo/Call"
_KEY = "benchmark"

Call = Callable[[], Awaitable[Any]]


@dataclass
class Way:
    """One way of calling, and what its rounds gave."""

    name: str
    call: Call
    rates: list[float] = field(default_factory=list)
    """Calls per second."""
    latencies: list[float] = field(default_factory=list)
    """Median milliseconds of each round."""
    cpu: list[float] = field(default_factory=list)
    """Microseconds of the models process per call."""


async def _serve(directory: Path) -> None:
    """Serve auth, models and an echo until standard input closes."""
    configure_logging("WARNING", service="models")

    async def echo(request: bytes, _context: Any) -> bytes:
        return request

    async with serve_services(directory, "models", settings={"models": ModelsSettings()}) as harness:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handler: dict[str, Any] = {"Call": grpc.unary_unary_rpc_method_handler(echo)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("benchmark.Echo", handler),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(harness.address, f"127.0.0.1:{port}", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await server.stop(0)


async def _round(path: Way, concurrency: int, server: psutil.Process) -> None:
    stop_at = time.perf_counter() + _ROUND_SECONDS
    taken: list[float] = []

    async def caller() -> None:
        while (started := time.perf_counter()) < stop_at:
            await path.call()
            taken.append((time.perf_counter() - started) * 1000)

    before, started = server.cpu_times(), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    elapsed, after = time.perf_counter() - started, server.cpu_times()
    path.rates.append(len(taken) / elapsed)
    path.latencies.append(statistics.median(taken))
    path.cpu.append((after.user + after.system - before.user - before.system) / len(taken) * 1e6)


def _paths(models: str, echo: str, upstream: str, session: aiohttp.ClientSession) -> list[Way]:
    import litellm

    metadata = (("authorization", f"Bearer {ALICE}"),)
    channel = grpc.aio.insecure_channel(models)
    inference: Any = inference_service_pb2_grpc.InferenceServiceStub(channel)
    configuration: Any = model_service_pb2_grpc.ModelServiceStub(channel)
    bare: Any = grpc.aio.insecure_channel(echo).unary_unary(_ECHO)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    completion = pb.Completion(
        model=_MODEL,
        messages=[pb.Message(role=pb.MESSAGE_ROLE_USER, content=[pb.ContentPart(text=messages[0]["content"])])],
    )
    whole, streamed = pb.CompleteRequest(completion=completion), pb.StreamCompleteRequest(completion=completion)
    get = model_pb2.GetModelRequest(name=_MODEL)

    async def raw() -> None:
        body = {"model": "gpt-4o-mini", "messages": messages}
        async with session.post(f"{upstream}/v1/chat/completions", json=body) as response:
            await response.json()

    async def raw_stream() -> None:
        body = {"model": "gpt-4o-mini", "messages": messages, "stream": True}
        async with session.post(f"{upstream}/v1/chat/completions", json=body) as response:
            await response.read()

    async def stream() -> None:
        async for _ in inference.StreamComplete(streamed, metadata=metadata):
            pass

    return [
        Way("bare grpc echo", lambda: bare(b"x" * 100, metadata=metadata)),
        Way("GetModel", lambda: configuration.GetModel(get, metadata=metadata)),
        Way("upstream itself (aiohttp)", raw),
        Way("Complete", lambda: inference.Complete(whole, metadata=metadata)),
        Way(
            "litellm.acompletion",
            lambda: litellm.acompletion(
                model=_MODEL, messages=messages, api_key=_KEY, base_url=f"{upstream}/v1", num_retries=0
            ),
        ),
        Way("upstream itself, streamed", raw_stream),
        Way("StreamComplete", stream),
        Way(
            "Embed one text, packaged model",
            lambda: inference.Embed(pb.EmbedRequest(texts=["a short question"]), metadata=metadata),
        ),
    ]


async def _measure(models: str, echo: str, upstream: str, server: psutil.Process) -> None:
    async with aiohttp.ClientSession() as session:
        for concurrency in (1, 32):
            paths = _paths(models, echo, upstream, session)
            for path in paths:
                await path.call()
            for _ in range(_ROUNDS):
                for path in paths:
                    await _round(path, concurrency, server)
            print(f"\n{concurrency} at once{'':29}{'calls/s':>9}{'p50 ms':>9}{'models CPU':>12}")
            rates = {path.name: statistics.median(path.rates) for path in paths}
            for path in paths:
                print(
                    f"{path.name:36}{rates[path.name]:9.0f}{statistics.median(path.latencies):9.2f}"
                    f"{statistics.median(path.cpu):9.0f} us"
                )
            print(f"GetModel of echo: {rates['GetModel'] / rates['bare grpc echo']:.2f}")
            print(f"Complete of litellm as a library: {rates['Complete'] / rates['litellm.acompletion']:.1f}")
    memory = server.memory_info().rss / 2**20
    print(f"\nresident memory of the process with auth, models and the packaged model: {memory:.0f} MiB")


def main() -> None:
    """Start upstream and server and measure, or be the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        uvloop.run(_serve(arguments.serve))
        return
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    emulator = [sys.executable, "-m", "tests.support.llm_emulator", "--no-log"]
    with (
        tempfile.TemporaryDirectory() as directory,
        subprocess.Popen(emulator, stdout=subprocess.PIPE, text=True) as llm,
    ):
        assert llm.stdout is not None
        upstream = llm.stdout.readline().strip()
        environment = os.environ | {"OPENAI_API_KEY": _KEY, "OPENAI_BASE_URL": f"{upstream}/v1"}
        command = [sys.executable, "-m", "benchmarks.models_complete", "--serve", directory]
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            assert server.stdin is not None
            try:
                addresses = server.stdout.readline().split()
                if len(addresses) != 2:
                    sys.exit("models did not start")
                uvloop.run(_measure(addresses[0], addresses[1], upstream, psutil.Process(server.pid)))
            finally:
                server.stdin.close()
                llm.terminate()


if __name__ == "__main__":
    main()
