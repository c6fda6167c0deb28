"""Clients that disappear in the middle of a stream."""

import asyncio
import sys

import pytest

from tests.integration.models.support import CHAT, Installation
from tests.support.harness import ALICE
from tests.support.llm_script import Reply

# Reads so slowly that the server waits in a write; several streams, as the order of events decides what is logged.
_CLIENT = """
import sys, threading, time
import grpc
from coxswain.models.v1 import inference_pb2 as pb
from coxswain.models.v1.inference_service_pb2_grpc import InferenceServiceStub
stub = InferenceServiceStub(grpc.insecure_channel(sys.argv[1]))
hello = pb.Message(role=pb.MESSAGE_ROLE_USER, content=[pb.ContentPart(text="hello")])
request = pb.StreamCompleteRequest(completion=pb.Completion(model=sys.argv[3], messages=[hello]))
begun = threading.Semaphore(0)
def read():
    for _ in stub.StreamComplete(request, metadata=[("authorization", "Bearer " + sys.argv[2])]):
        begun.release()
        time.sleep(0.005)
for _ in range(12):
    threading.Thread(target=read, daemon=True).start()
for _ in range(12):
    begun.acquire()
print("begun", flush=True)
sys.stdin.read()
"""


async def test_a_client_that_disappears_leaves_no_error_in_the_log_and_no_call_upstream(
    models: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    models.llm.on(Reply(chunks=["x" * 30_000] * 300, hang_after_chunks=300))
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CLIENT, models.harness.address, ALICE, CHAT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert client.stdout is not None
        assert await client.stdout.readline() == b"begun\n"
    finally:
        client.kill()
        await client.wait()
    await models.llm.wait_for_calls(12, outcome="client_disconnected")
    # The upstream runs in this process too; what its own server says about closed connections is not ours.
    ours = [record for record in caplog.records if record.name != "aiohttp.server"]
    assert [record for record in ours if record.levelname == "ERROR"] == []
