"""Both ends of the link between a host and a crew process, joined by a socket within this process."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from coxswain.models.v1.inference_pb2 import EmbedRequest, EmbedResponse
from coxswain.orchestrator.v1.execution_pb2 import TaskOutput
from coxswain.orchestrator.worker.link_pb2 import (
    Cancel,
    CrewReply,
    CrewRequest,
    Error,
    Frame,
    HostReply,
    HostRequest,
    MakePlan,
    RunTask,
)
from services.common.errors import NotFound
from services.orchestrator.worker.link import framing
from services.orchestrator.worker.link.crew_end import CrewEnd, LinkClosed
from services.orchestrator.worker.link.errors import TaskError
from services.orchestrator.worker.link.framing import encode_frame
from services.orchestrator.worker.link.host_end import CrewProcessLost, HostEnd
from tests.support.waiting import PATIENCE, longer, until

HostHandler = Callable[[CrewRequest], Any]
CrewHandler = Callable[[HostRequest], CrewReply]


def embed(model: str = "m") -> CrewRequest:
    """A request of a crew process, told apart by its model."""
    return CrewRequest(embed=EmbedRequest(model=model))


def name_of(request: CrewRequest) -> str:
    return request.embed.model


def run(attempt: int = 1) -> HostRequest:
    """A request of a host, told apart by its attempt."""
    return HostRequest(run_task=RunTask(attempt=attempt))


PLAN = HostRequest(make_plan=MakePlan())


class Ends:
    """The two ends and what went wrong at the host's."""

    def __init__(self, host: HostEnd, crew: CrewEnd, theirs: socket.socket) -> None:
        self.host = host
        self.crew = crew
        self.theirs = theirs
        self.failures: list[BaseException] = []


@asynccontextmanager
async def joined(serve: HostHandler, answer: CrewHandler = lambda _: CrewReply()) -> AsyncIterator[Ends]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    failures: list[BaseException] = []

    async def handle(request: CrewRequest) -> HostReply:
        result = serve(request)
        if asyncio.iscoroutine(result):
            result = await result
        return result if isinstance(result, HostReply) else HostReply()

    host, crew = HostEnd(ours, handle, failures.append), CrewEnd(theirs)
    await host.open()
    reading = threading.Thread(target=crew.serve, args=(answer,), daemon=True)
    reading.start()
    ends = Ends(host, crew, theirs)
    ends.failures = failures
    try:
        yield ends
    finally:
        await host.close()
        await asyncio.to_thread(reading.join, PATIENCE)
        theirs.close()


async def test_a_crew_process_that_is_let_end_is_still_heard() -> None:
    heard: list[str] = []
    async with joined(lambda request: heard.append(name_of(request))) as ends:
        ends.host.let_end()
        # Its end of the link has nothing more to read.
        await until(lambda: ends.crew._closed)
        ends.crew.notify(embed("last"))
        ends.theirs.shutdown(socket.SHUT_RDWR)
        await asyncio.wait_for(ends.host.closed.wait(), PATIENCE)
        ends.host.let_end()
        await until(lambda: heard == ["last"])


async def test_a_reply_to_a_crew_process_that_was_let_end_is_dropped() -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def reply(_: CrewRequest) -> None:
        asked.set()
        await go.wait()

    async with joined(reply) as ends:
        ends.theirs.sendall(encode_frame(Frame(call=1, crew_request=embed())))
        await asyncio.wait_for(asked.wait(), PATIENCE)
        ends.host.let_end()
        go.set()
        await until(lambda: not ends.host._serving)
        with pytest.raises(CrewProcessLost):
            await ends.host.call(run())
        assert ends.failures == []
        ends.theirs.shutdown(socket.SHUT_RDWR)


async def test_both_ends_call_and_answer_at_the_same_time() -> None:
    def double(request: HostRequest) -> CrewReply:
        # Asks back while it is being asked.
        reply = ends.crew.call(embed("x" * request.run_task.attempt))
        return CrewReply(run_task=TaskOutput(text=str(reply.embed.dimension * 2)))

    async with joined(lambda asked: HostReply(embed=EmbedResponse(dimension=len(name_of(asked)))), double) as ends:
        replies = await asyncio.gather(*(ends.host.call(run(number)) for number in range(20)))
    assert [reply.run_task.text for reply in replies] == [str(number * 2) for number in range(20)]


async def test_errors_arrive_as_they_were_raised() -> None:
    def refuse(request: HostRequest) -> CrewReply:
        if request.WhichOneof("request") == "make_plan":
            raise ZeroDivisionError("by zero")
        raise TaskError("TASK_FAILED", "no", fatal=True)

    def missing(_: CrewRequest) -> None:
        raise NotFound("gone")

    async with joined(missing, refuse) as ends:
        with pytest.raises(TaskError, match="no") as refused:
            await ends.host.call(run())
        assert (refused.value.reason, refused.value.fatal) == ("TASK_FAILED", True)
        with pytest.raises(TaskError, match="ZeroDivisionError") as broken:
            await ends.host.call(PLAN)
        assert broken.value.reason == "INTERNAL"
        with pytest.raises(TaskError, match="gone") as lost:
            await asyncio.to_thread(ends.crew.call, embed())
        assert (lost.value.reason, lost.value.fatal) == ("NOT_FOUND", False)


async def test_a_reply_too_large_to_be_sent_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_FRAME_BYTES", 200)
    large = CrewReply(run_task=TaskOutput(text="a" * 200))
    async with joined(lambda _: None, lambda _: large) as ends:
        with pytest.raises(TaskError, match="larger than the limit") as failed:
            await ends.host.call(run())
    assert (failed.value.reason, failed.value.fatal) == ("TASK_FAILED", True)


async def test_the_hosts_own_trouble_is_not_told_to_the_crew_process() -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError("secret")

    async with joined(broken) as ends:
        # A busy host may read of a call and of its end at once, and then it does not begin.
        for seconds in longer(0.2):
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(ends.crew.call, embed(), timeout=seconds)
            if ends.failures:
                break
        told = len(ends.failures)
        ends.crew.notify(embed())
        await until(lambda: len(ends.failures) > told)
        assert {type(failure) for failure in ends.failures} == {ZeroDivisionError}


async def test_a_call_given_up_is_given_up_at_the_other_end_too() -> None:
    begun, given_up = asyncio.Event(), asyncio.Event()

    async def hang(*_: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    async with joined(hang) as ends:
        # A busy host may read of a call and of its end at once, and then it does not begin.
        for seconds in longer(0.05):
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(ends.crew.call, embed(), timeout=seconds)
            if begun.is_set():
                break
        await asyncio.wait_for(given_up.wait(), PATIENCE)


async def test_a_call_given_up_before_it_began_is_forgotten() -> None:
    served = []

    async with joined(lambda request: served.append(name_of(request))) as ends:
        call = encode_frame(Frame(call=7, crew_request=embed("first")))
        # At once, so that the host reads both before it serves the call.
        ends.theirs.sendall(call + encode_frame(Frame(call=7, cancel=Cancel())))
        await asyncio.to_thread(ends.crew.call, embed("second"), timeout=PATIENCE)
        ends.theirs.sendall(call)
        await until(lambda: served == ["second", "first"])
        assert not ends.host.closed.is_set()


async def test_two_calls_with_one_number_end_the_link() -> None:
    begun, given_up = [], []

    async def hang(request: CrewRequest) -> None:
        begun.append(name_of(request))
        try:
            await asyncio.Event().wait()
        finally:
            given_up.append(name_of(request))

    async with joined(hang) as ends:
        ends.theirs.sendall(encode_frame(Frame(call=7, crew_request=embed("first"))))
        await until(lambda: begun == ["first"])
        ends.theirs.sendall(encode_frame(Frame(call=7, crew_request=embed("second"))))
        await asyncio.wait_for(ends.host.closed.wait(), PATIENCE)
        await until(lambda: given_up == ["first"])
        assert begun == ["first"]


async def test_the_end_of_a_crew_process_ends_its_calls_and_not_its_notices() -> None:
    begun, given_up, noticed = set(), set(), []
    read_on = asyncio.Event()

    async def serve(request: CrewRequest) -> None:
        begun.add(name_of(request))
        try:
            await read_on.wait()
            noticed.append(name_of(request))
        except asyncio.CancelledError:
            given_up.add(name_of(request))
            raise

    release = threading.Event()

    def hang(_: HostRequest) -> CrewReply:
        release.wait(PATIENCE)
        return CrewReply()

    async with joined(serve, hang) as ends:
        ends.crew.notify(embed("notice"))
        call = asyncio.create_task(ends.host.call(run()))
        waiting = asyncio.create_task(asyncio.to_thread(ends.crew.call, embed("ask")))
        await until(lambda: begun == {"notice", "ask"})
        ends.theirs.shutdown(socket.SHUT_RDWR)
        with pytest.raises(CrewProcessLost):
            await call
        with pytest.raises(LinkClosed):
            await waiting
        await until(lambda: given_up == {"ask"})
        read_on.set()
        await until(lambda: noticed == ["notice"])
        with pytest.raises(CrewProcessLost):
            await ends.host.call(run())
        with pytest.raises(LinkClosed):
            await asyncio.to_thread(ends.crew.call, embed())
        release.set()


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff\xff\xff\xff",
        encode_frame(Frame(call=1)),
        encode_frame(Frame(call=1, crew_request=CrewRequest(task=0))),
        encode_frame(Frame(call=1, host_request=PLAN)),
        encode_frame(Frame(call=1, host_reply=HostReply())),
    ],
    ids=["too long", "no content", "no request", "a host's request", "a host's reply"],
)
async def test_what_no_crew_process_may_send_ends_the_link(sent: bytes) -> None:
    async with joined(lambda *_: None) as ends:
        ends.theirs.sendall(sent)
        await asyncio.wait_for(ends.host.closed.wait(), PATIENCE)
        with pytest.raises(CrewProcessLost):
            await ends.host.call(run())


async def test_replies_nobody_waits_for_are_passed_over() -> None:
    async with joined(lambda _: HostReply(embed=EmbedResponse(dimension=3))) as ends:
        for frame in (
            Frame(call=99, crew_reply=CrewReply()),
            Frame(call=99, error=Error()),
            Frame(call=99, cancel=Cancel()),
        ):
            ends.theirs.sendall(encode_frame(frame))
        assert (await asyncio.to_thread(ends.crew.call, embed(), timeout=PATIENCE)).embed.dimension == 3
