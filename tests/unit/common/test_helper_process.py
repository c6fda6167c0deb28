"""A helper process answers each group in turn, and whoever is cancelled or makes it die harms nobody else."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.common.child_process import ProcessGone
from services.common.helper_process import HelperProcess
from services.common.reading.reader import BoundedReader, CannotRead

REPOSITORY = Path(__file__).resolve().parents[3]
PROGRAM = f"""
import os, signal, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from services.common.helper_program import serve

def answer(request):
    if request.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if request.get("hang"):
        signal.pause()
    if "spend" in request:
        try:
            return {{"spent": len(b" " * request["spend"])}}
        except MemoryError:
            return {{"spent": None}}
    if "attached" in request:
        return {{"attached": len(request["attached"]), "half": "\\ud800"}}
    print("what a library says")
    return {{"pid": os.getpid(), "echo": request.get("echo"), "variables": sorted(os.environ)}}

serve(answer)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture
async def helper(program: Path) -> AsyncIterator[HelperProcess]:
    made = HelperProcess(program, longest_seconds=60)
    yield made
    await made.close()


async def test_one_process_answers_everybody_and_knows_nothing_of_the_environment(
    helper: HelperProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COXSWAIN_SECRET", "x")
    answers = await asyncio.gather(*(helper.ask(f"g{number % 3}", {"echo": number}) for number in range(9)))
    assert [answer["echo"] for answer in answers] == list(range(9))
    assert len({answer["pid"] for answer in answers}) == 1
    assert "COXSWAIN_SECRET" not in answers[0]["variables"]


async def test_the_process_can_be_started_before_it_is_needed(helper: HelperProcess) -> None:
    for _ in range(3):
        helper.prepare()
    first = (await helper.ask("g", {}))["pid"]
    helper.prepare()
    assert (await helper.ask("g", {}))["pid"] == first


async def test_a_process_that_dies_is_replaced(helper: HelperProcess) -> None:
    first = (await helper.ask("g", {}))["pid"]
    with pytest.raises(ProcessGone):
        await helper.ask("g", {"die": True})
    assert (await helper.ask("g", {}))["pid"] != first


async def test_a_request_does_not_pay_for_a_process_that_has_ended_before_it(helper: HelperProcess) -> None:
    first = (await helper.ask("g", {}))["pid"]
    os.kill(first, signal.SIGKILL)
    answer = await helper.ask("g", {"echo": 1})
    assert answer["echo"] == 1
    assert answer["pid"] != first


async def test_a_cancelled_request_leaves_nothing_to_the_next_one(helper: HelperProcess) -> None:
    for number in range(20):
        given_up = asyncio.ensure_future(helper.ask("g", {"echo": -1}))
        await asyncio.sleep(0)
        given_up.cancel()
        assert (await helper.ask("g", {"echo": number}))["echo"] == number


async def test_cancelled_requests_whose_turn_has_not_come_hold_nothing(helper: HelperProcess) -> None:
    content = bytes(1_000_000)
    held = sys.getrefcount(content)
    hanging = asyncio.ensure_future(helper.ask("g", {"hang": True}))
    waiting = [asyncio.ensure_future(helper.ask(group, {}, content)) for group in "ggghhh"]
    await asyncio.sleep(0)
    for asked in waiting:
        asked.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    # The exchanges beside them are cancelled in the next turns of the loop.
    for _ in range(5):
        await asyncio.sleep(0)
    del waiting, asked
    gc.collect()
    assert sys.getrefcount(content) == held
    hanging.cancel()


async def test_what_takes_too_long_is_ended_and_the_next_one_is_answered(program: Path) -> None:
    helper = HelperProcess(program, longest_seconds=60)
    first = (await helper.ask("g", {}))["pid"]
    helper._longest_seconds = 0.2
    with pytest.raises(TimeoutError):
        await helper.ask("g", {"hang": True})
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    helper._longest_seconds = 60
    assert (await helper.ask("g", {"echo": 1}))["echo"] == 1
    await helper.close()


async def test_who_waits_for_a_process_that_is_being_ended_is_told(helper: HelperProcess) -> None:
    hanging = asyncio.ensure_future(helper.ask("g", {"hang": True}))
    waiting = asyncio.ensure_future(helper.ask("h", {}))
    await asyncio.sleep(0)
    await helper.close()
    for asked in (hanging, waiting):
        with pytest.raises(ProcessGone):
            await asked


async def test_memory_is_bounded(helper: HelperProcess) -> None:
    assert (await helper.ask("g", {"spend": 1000}))["spent"] == 1000
    assert (await helper.ask("g", {"spend": 2 * 1024**3}))["spent"] is None


async def test_bytes_are_attached_as_they_are(helper: HelperProcess) -> None:
    answers = await asyncio.gather(
        helper.ask("a", {"echo": 1}, b"\0" * 3_000_000), helper.ask("b", {"echo": 2}), helper.ask("a", {}, b"x")
    )
    assert [answer.get("attached") for answer in answers] == [3_000_000, None, 1]
    # What is no text of Unicode passes as JSON lets it.
    assert answers[0]["half"] == "\ud800"


async def test_a_reader_that_fails_is_not_taken_for_one_that_takes_too_long(tmp_path: Path) -> None:
    program = tmp_path / "reader.py"
    program.write_text(
        f"""
import sys
sys.path.insert(0, {str(REPOSITORY)!r})
from services.common.helper_program import serve_readings

serve_readings(lambda what, given: {{}}[what])
"""
    )
    reader = BoundedReader(program, cpu_seconds=10, longest_seconds=60)
    with pytest.raises(CannotRead, match="damaged"):
        await reader.read("g", "page")
    await reader.close()


async def test_large_responses_arrive_whole(helper: HelperProcess) -> None:
    text = "text " * 200_000
    assert (await helper.ask("g", {"echo": text}))["echo"] == text
