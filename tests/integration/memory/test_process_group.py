"""Memory by several processes at one port: what one has saved the other finds at once, and they are seen as one."""

import asyncio
import http.client
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import memory_service_pb2_grpc, record_pb2
from tests.support.child_process import ChildProcess, free_port, scrubbed_environment
from tests.support.harness import serve_services

_METADATA = (("authorization", "Bearer dev:alice:sales=editor"),)
_NAMESPACE = pb.Namespace(memory_id="crew")
_SEARCH = "/coxswain.memory.v1.MemoryService/SearchRecords"


class Member:
    """One of the processes, on a connection of its own."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self._stub: Any = memory_service_pb2_grpc.MemoryServiceStub(channel)

    async def save(self, name: str) -> None:
        record = record_pb2.Record(id=name, embedding=[1, 2], unified=record_pb2.UnifiedRecord(content=name))
        request = pb.SaveRecordsRequest(namespace=_NAMESPACE, records=[record], embedding_model="test")
        await self._stub.SaveRecords(request, metadata=_METADATA)

    async def delete(self, name: str) -> None:
        await self._stub.DeleteRecords(pb.DeleteRecordsRequest(namespace=_NAMESPACE, ids=[name]), metadata=_METADATA)

    async def found(self) -> set[str]:
        request = pb.SearchRecordsRequest(namespace=_NAMESPACE, vector=pb.Vector(values=[1, 2]))
        response = await self._stub.SearchRecords(request, metadata=_METADATA)
        return {result.record.id for result in response.results}


async def members_at(address: str, group: ChildProcess) -> Sequence[Member]:
    """Return a connection to each process; the kernel chooses whom a new one leads to."""
    if os.geteuid() != 0:
        pytest.skip("to whom a connection leads, Linux tells root alone where processes keep secrets")
    port = int(address.rpartition(":")[2])
    reached: dict[int, Member] = {}
    known = set[tuple[int, Any]]()
    while len(reached) < 2:
        channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        await channel.channel_ready()
        connections = {
            (process.pid, connection.raddr)
            for process in processes_of(group)
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == port
        }
        for pid, _ in connections - known:
            reached.setdefault(pid, Member(channel))
        known = connections
        if channel not in [member.channel for member in reached.values()]:
            await channel.close()
    return list(reached.values())


def processes_of(group: ChildProcess) -> Sequence[psutil.Process]:
    return psutil.Process(group.pid).children()


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def searches_counted(port: int) -> float:
    families = text_string_to_metric_families(get(port, "/metrics")[1])
    samples = [sample for family in families for sample in family.samples if sample.name == "coxswain_rpc_total"]
    return sum(sample.value for sample in samples if sample.labels["method"] == _SEARCH)


async def test_processes_at_one_port_agree_and_end_together(tmp_path: Path) -> None:
    metrics = free_port(in_a_row=3)
    async with serve_services(tmp_path / "data") as auth:
        environment = scrubbed_environment(
            tmp_path,
            COXSWAIN_DATA_DIR=str(tmp_path / "data"),
            COXSWAIN_AUTH_ADDRESS=auth.internal_address,
            COXSWAIN_MEMORY_PROCESSES="2",
            COXSWAIN_MEMORY_PORT="0",
            COXSWAIN_MEMORY_INTERNAL_PORT="0",
            COXSWAIN_METRICS_PORT=str(metrics),
        )
        with ChildProcess("memory", ["-m", "services.memory"], environment) as group:
            line = await asyncio.to_thread(group.wait_for_line, "memory serving on")
            address = line.split("serving on ")[1].split(",")[0]
            assert (await asyncio.to_thread(get, metrics, "/readyz"))[0] == 200
            one, other = await members_at(address, group)

            for name in ("first", "second"):
                await one.save(name)
                assert name in await other.found()
            assert await one.found() == {"first", "second"}
            await other.delete("first")
            assert await one.found() == await other.found() == {"second"}

            counts = [await asyncio.to_thread(searches_counted, metrics + number) for number in (1, 2)]
            assert sorted(counts) == [2, 3]
            for member in (one, other):
                await member.channel.close()
            ended = processes_of(group)
            group.signal(signal.SIGTERM)
            assert await asyncio.to_thread(group.wait) == 0
            assert not any(process.is_running() for process in ended)
            assert "Traceback" not in group.output
            assert "unknown_setting" not in group.output
