"""Work of upstreams that has to be paid for although its answer never reaches a caller.

Retries, batches and cancelled calls hide it from the use case that would count it, so whoever sees it reports it to
the call being served.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace

from services.models.domain.model import Model
from services.models.domain.usage import Usage


@dataclass(frozen=True, slots=True)
class _Listener:
    tell: Callable[[Model, Usage], object]
    prompt_tokens: Callable[[], int]


_listener: ContextVar[_Listener | None] = ContextVar("coxswain_lost_work", default=None)


def listen_for_lost_work(tell: Callable[[Model, Usage], object], prompt_tokens: Callable[[], int]) -> None:
    """Let `tell` have what is lost in the rest of this task, and in tasks that it starts from now on.

    `prompt_tokens` returns about how many tokens an upstream reads in one request.
    """
    _listener.set(_Listener(tell, prompt_tokens))


def expect_prompt(tokens: Callable[[], int]) -> None:
    """Say how many tokens the requests of this task have, where that is another number than the call's."""
    if (listener := _listener.get()) is not None:
        _listener.set(replace(listener, prompt_tokens=tokens))


def report_lost_work(model: Model, usage: Usage | None = None) -> None:
    """Count what an upstream did for an answer that is lost; without `usage`, about what it read of the request."""
    if (listener := _listener.get()) is not None:
        listener.tell(model, usage or Usage(input_tokens=listener.prompt_tokens(), estimated=True))
