"""Where work on messages is done."""

import threading
from contextvars import ContextVar

import pytest

from services.common.grpc.large_messages import beside_if_large

SEEN: ContextVar[str] = ContextVar("seen", default="")


def work(suffix: str) -> tuple[str, int]:
    return SEEN.get() + suffix, threading.get_ident()


async def test_only_what_is_large_leaves_the_event_loop_and_takes_its_context_along() -> None:
    SEEN.set("con")
    assert await beside_if_large(1000, work, "text") == ("context", threading.get_ident())
    text, thread = await beside_if_large(1_000_000, work, "text")
    assert text == "context"
    assert thread != threading.get_ident()


async def test_a_failure_comes_out_as_it_is() -> None:
    def fail() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        await beside_if_large(1_000_000, fail)
