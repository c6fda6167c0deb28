"""Files that are being received: how much of the memory a group's take, and how long one may take to come."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from services.common.errors import DeadlineExceeded, Unavailable
from services.memory.usecases.document_uploads import UploadLimits, Uploads


def uploads(*, seconds: float = 60) -> Uploads:
    return Uploads(UploadLimits(document_bytes=10, group_saves=2, all_bytes=80, upload_seconds=seconds))


def test_a_group_leaves_room_for_others() -> None:
    held = uploads()
    with held.file("a") as first, held.file("a") as second, held.file("b") as other:
        first.add(bytes(15))
        with pytest.raises(Unavailable, match=r"of your group .* 20 bytes"):
            second.add(bytes(6))
        second.add(bytes(5))
        other.add(bytes(20))
    assert not first.content
    with held.file("a") as again:
        again.add(bytes(20))


def test_all_groups_together_hold_a_bounded_number_of_bytes() -> None:
    held = uploads()
    with held.file("a") as a, held.file("b") as b, held.file("c") as c, held.file("d") as d, held.file("e") as e:
        for file in (a, b, c, d):
            file.add(bytes(20))
        with pytest.raises(Unavailable, match="at the moment"):
            e.add(bytes(1))
    with held.file("e") as e:
        e.add(bytes(1))


def test_a_file_of_any_permitted_size_fits_into_the_share_of_a_group() -> None:
    limits = UploadLimits(document_bytes=30, group_saves=2, all_bytes=40, upload_seconds=60)
    with Uploads(limits).file("a") as file:
        file.add(bytes(30))


def test_places_are_given_back() -> None:
    held = uploads()
    for _ in range(3):
        with (
            held.place("a"),
            held.place("a"),
            held.place("b"),
            pytest.raises(Unavailable, match="2 documents"),
            held.place("a"),
        ):
            pass


async def trickle() -> AsyncIterator[bytes]:
    while True:
        await asyncio.sleep(0)
        yield b"x"


async def silence() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b"x"


@pytest.mark.parametrize("chunks", [trickle, silence])
async def test_a_file_that_comes_too_slowly_is_given_up(chunks: Callable[[], AsyncIterator[bytes]]) -> None:
    with pytest.raises(DeadlineExceeded) as refusal:
        async for _ in uploads(seconds=0.05).timely(chunks()):
            pass
    assert refusal.value.reason == "STREAM_IDLE"
