"""How fast auth answers, as ratios to a bare grpc.aio echo in the same server process.

The echo takes and returns bytes of the same sizes with the same metadata, without interceptors, decoding or identity.
Paths take turns in short rounds, so that whatever else the machine does weighs on all of them. Beside the medians stand
the best rounds, which a busy machine disturbs least.
"""

import argparse
import asyncio
import itertools
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

import grpc
import psutil
import uvloop

from coxswain.auth.v1 import credential_pb2, principal_pb2
from services.common.logging import configure_logging
from tests.support.harness import serve_services

_CONCURRENCY = 32
_ROUND_SECONDS = 0.3
_ROUNDS = 25
_ANSWER_BYTES = 100
_ECHO = "/benchmark.Echo/Call"
_AUTH = "/coxswain.auth.v1.AuthService/"
_BEARER = "dev:alice:sales=operator"

Call = Callable[[], Awaitable[Any]]


@dataclass
class Probe:
    """One kind of call and what its rounds gave."""

    name: str
    call: Call
    rates: list[float] = field(default_factory=list)
    """Calls per second."""
    cpu: list[float] = field(default_factory=list)
    """Microseconds of the server's CPU per call."""


async def _serve(directory: Path) -> None:
    """Serve auth and the echo until standard input closes."""
    configure_logging("WARNING", service="auth")
    answer = b"x" * _ANSWER_BYTES

    async def echo(_request: bytes, _context: Any) -> bytes:
        return answer

    async with serve_services(directory) as harness:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        handler: dict[str, Any] = {"Call": grpc.unary_unary_rpc_method_handler(echo)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("benchmark.Echo", handler),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        service_token = harness.host.peers("models")._identity.token_for("auth")
        print(harness.address, harness.internal_address, f"127.0.0.1:{port}", service_token, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await server.stop(0)


async def _round(path: Probe, server: psutil.Process) -> None:
    stop_at = time.perf_counter() + _ROUND_SECONDS
    done = 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < stop_at:
            await path.call()
            done += 1

    before, started = server.cpu_times(), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(_CONCURRENCY)))
    elapsed, after = time.perf_counter() - started, server.cpu_times()
    path.rates.append(done / elapsed)
    path.cpu.append((after.user + after.system - before.user - before.system) / done * 1e6)


async def _paths(public: str, internal: str, echo: str, service_token: str) -> list[Probe]:
    targets = {"public": public, "internal": internal, "echo": echo}
    channels = {name: grpc.aio.insecure_channel(target) for name, target in targets.items()}
    exchange: Any = channels["public"].unary_unary(
        f"{_AUTH}ExchangeToken",
        request_serializer=principal_pb2.ExchangeTokenRequest.SerializeToString,
        response_deserializer=principal_pb2.ExchangeTokenResponse.FromString,
    )
    exchanged = await exchange(principal_pb2.ExchangeTokenRequest(authorization=f"Bearer {_BEARER}"))
    acting = (("x-coxswain-service", service_token), ("x-coxswain-principal", exchanged.principal_token))
    wanted = credential_pb2.ResolveCredentialRequest(
        purpose=credential_pb2.CREDENTIAL_PURPOSE_LLM_PROVIDER, provider="openai"
    )
    request = wanted.SerializeToString()
    bare: Any = channels["echo"].unary_unary(_ECHO)
    resolve: Any = channels["internal"].unary_unary(f"{_AUTH}ResolveCredential")
    jwks: Any = channels["internal"].unary_unary(f"{_AUTH}GetJwks")
    numbers = itertools.count()

    async def first_exchange() -> None:
        authorization = f"Bearer dev:user{os.getpid()}-{next(numbers)}:sales=operator"
        await exchange(principal_pb2.ExchangeTokenRequest(authorization=authorization))

    return [
        Probe("bare echo", lambda: bare(request, metadata=acting)),
        Probe("cached ResolveCredential", lambda: resolve(request, metadata=acting)),
        Probe("GetJwks, nobody asked who", lambda: jwks(b"")),
        Probe("GetJwks, service and principal checked", lambda: jwks(b"", metadata=acting)),
        Probe("first exchange (verify, seal, store, sign)", first_exchange),
    ]


async def _measure(addresses: list[str], server: psutil.Process) -> None:
    paths = await _paths(*addresses)
    for path in paths:
        await _round(path, server)
        path.rates.clear()
        path.cpu.clear()
    for _ in range(_ROUNDS):
        for path in paths:
            await _round(path, server)
    floor = paths[0]
    print(f"{'':44}{'calls/s':>9}{'of echo':>9}{'best':>9}{'of echo':>9}{'server CPU':>12}")
    for path in paths:
        middle, best = statistics.median(path.rates), max(path.rates)
        print(
            f"{path.name:44}{middle:9.0f}{middle / statistics.median(floor.rates):9.2f}"
            f"{best:9.0f}{best / max(floor.rates):9.2f}{min(path.cpu):9.0f} us"
        )


def main() -> None:
    """Start the server and measure, or be the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        uvloop.run(_serve(arguments.serve))
        return
    with tempfile.TemporaryDirectory() as directory:
        environment = os.environ | {"OPENAI_API_KEY": "benchmark", "OPENAI_BASE_URL": "https://example.com"}
        command = [sys.executable, "-m", "benchmarks.auth_resolve", "--serve", directory]
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdout is not None
            addresses = server.stdout.readline().split()
            if len(addresses) != 4:
                sys.exit("auth did not start")
            uvloop.run(_measure(addresses, psutil.Process(server.pid)))
            assert server.stdin is not None
            server.stdin.close()


if __name__ == "__main__":
    main()
