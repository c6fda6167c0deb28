"""Both ends of the link between a host and a crew process, joined by a socket within this process."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.common.errors import NotFound
from services.orchestrator.worker.link.crew_end import Link, LinkClosed
from services.orchestrator.worker.link.framing import Frame, RemoteError, encode_frame
from services.orchestrator.worker.link.host_end import CrewProcessLost, HostLink
from tests.unit.worker.waiting import PATIENCE, until

Handler = Callable[[str, Frame], Any]


class Ends:
    """The two ends and what went wrong at the host's."""

    def __init__(self, host: HostLink, crew: Link, theirs: socket.socket) -> None:
        self.host = host
        self.crew = crew
        self.theirs = theirs
        self.failures: list[BaseException] = []


@asynccontextmanager
async def joined(serve: Handler, handlers: dict[str, Callable[[Frame], Any]] | None = None) -> AsyncIterator[Ends]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    failures: list[BaseException] = []

    async def handle(method: str, params: Frame) -> Any:
        result = serve(method, params)
        return await result if asyncio.iscoroutine(result) else result

    host, crew = HostLink(ours, handle, failures.append), Link(theirs)
    await host.open()
    reading = threading.Thread(target=crew.serve, args=(handlers or {},), daemon=True)
    reading.start()
    ends = Ends(host, crew, theirs)
    ends.failures = failures
    try:
        yield ends
    finally:
        await host.close()
        await asyncio.to_thread(reading.join, PATIENCE)
        theirs.close()


async def test_both_ends_call_and_answer_at_the_same_time() -> None:
    def double(params: Frame) -> int:
        # Asks back while it is being asked.
        return int(ends.crew.call("half", {"of": params["of"] * 4}))

    async with joined(lambda _, params: params["of"] // 2, {"double": double}) as ends:
        answers = await asyncio.gather(*(ends.host.call("double", {"of": number}) for number in range(20)))
    assert answers == [number * 2 for number in range(20)]


async def test_errors_arrive_as_they_were_raised() -> None:
    def refuse(_: Frame) -> None:
        raise RemoteError("TASK_FAILED", "no", fatal=True)

    def missing(method: str, _: Frame) -> None:
        raise NotFound("gone")

    async with joined(missing, {"refuse": refuse, "break": lambda _: 1 / 0}) as ends:
        with pytest.raises(RemoteError, match="no") as refused:
            await ends.host.call("refuse", {})
        assert (refused.value.reason, refused.value.fatal) == ("TASK_FAILED", True)
        with pytest.raises(RemoteError, match="ZeroDivisionError") as broken:
            await ends.host.call("break", {})
        assert broken.value.reason == "INTERNAL"
        with pytest.raises(RemoteError, match="gone") as lost:
            await asyncio.to_thread(ends.crew.call, "anything", {})
        assert (lost.value.reason, lost.value.fatal) == ("NOT_FOUND", False)


async def test_an_answer_that_cannot_be_told_is_an_error() -> None:
    async with joined(lambda *_: None, {"number": lambda _: float("nan"), "thing": lambda _: object()}) as ends:
        for method in ("number", "thing"):
            with pytest.raises(RemoteError):
                await ends.host.call(method, {})


async def test_the_hosts_own_trouble_is_not_told_to_the_crew_process() -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError("secret")

    async with joined(broken) as ends:
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(ends.crew.call, "anything", {}, timeout=0.2)
        await until(lambda: [type(failure) for failure in ends.failures] == [ZeroDivisionError])
        ends.crew.notify("notice", {})
        await until(lambda: len(ends.failures) == 2)


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
        while not begun.is_set():
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(ends.crew.call, "hang", {}, timeout=0.05)
        await asyncio.wait_for(given_up.wait(), PATIENCE)


async def test_a_call_given_up_before_it_began_is_forgotten() -> None:
    served = []

    async with joined(lambda method, _: served.append(method)) as ends:
        call = encode_frame({"call": 7, "method": "first", "params": {}})
        # In one piece, so that the host reads both before it serves the call.
        ends.theirs.sendall(call + encode_frame({"cancel": 7}))
        await asyncio.to_thread(ends.crew.call, "second", {}, timeout=PATIENCE)
        ends.theirs.sendall(call)
        await until(lambda: served == ["second", "first"])
        assert not ends.host.closed.is_set()


async def test_two_calls_with_one_number_end_the_link() -> None:
    begun, given_up = [], []

    async def hang(method: str, _: Frame) -> None:
        begun.append(method)
        try:
            await asyncio.Event().wait()
        finally:
            given_up.append(method)

    async with joined(hang) as ends:
        ends.theirs.sendall(encode_frame({"call": 7, "method": "first", "params": {}}))
        await until(lambda: begun == ["first"])
        ends.theirs.sendall(encode_frame({"call": 7, "method": "second", "params": {}}))
        await asyncio.wait_for(ends.host.closed.wait(), PATIENCE)
        await until(lambda: given_up == ["first"])
        assert begun == ["first"]


async def test_the_end_of_a_crew_process_ends_its_calls_and_not_what_it_told() -> None:
    begun, given_up, told = set(), set(), []
    read_on = asyncio.Event()

    async def serve(method: str, _: Frame) -> None:
        begun.add(method)
        try:
            await read_on.wait()
            told.append(method)
        except asyncio.CancelledError:
            given_up.add(method)
            raise

    release = threading.Event()
    async with joined(serve, {"hang": lambda _: release.wait(PATIENCE)}) as ends:
        ends.crew.notify("tell", {})
        call = asyncio.create_task(ends.host.call("hang", {}))
        waiting = asyncio.create_task(asyncio.to_thread(ends.crew.call, "ask", {}))
        await until(lambda: begun == {"tell", "ask"})
        ends.theirs.shutdown(socket.SHUT_RDWR)
        with pytest.raises(CrewProcessLost):
            await call
        with pytest.raises(LinkClosed):
            await waiting
        await until(lambda: given_up == {"ask"})
        read_on.set()
        await until(lambda: told == ["tell"])
        with pytest.raises(CrewProcessLost):
            await ends.host.call("anything", {})
        with pytest.raises(LinkClosed):
            await asyncio.to_thread(ends.crew.call, "anything", {})
        release.set()


async def test_bytes_that_are_no_frames_end_the_link() -> None:
    async with joined(lambda *_: None) as ends:
        ends.theirs.sendall(b"\xff\xff\xff\xff")
        await asyncio.wait_for(ends.host.closed.wait(), PATIENCE)
        with pytest.raises(CrewProcessLost):
            await ends.host.call("anything", {})
