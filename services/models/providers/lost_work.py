"""Work of upstreams that the use case which counts it cannot see.

Retries, batches and cancelled calls hide what has to be paid for although its answer never reaches a caller, and which
deployment answers: whoever sees it reports it to the call being served.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace

from services.models.domain.model import Model
from services.models.domain.usage import Usage, completed


@dataclass(slots=True)
class _Listener:
    lost: Callable[[Model, Usage], object]
    prompt_tokens: Callable[[], int]
    answers: Callable[[Model], object]


_listener: ContextVar[_Listener | None] = ContextVar("coxswain_lost_work", default=None)


def listen_for_work(
    lost: Callable[[Model, Usage], object],
    prompt_tokens: Callable[[], int],
    answers: Callable[[Model], object],
) -> None:
    """Let `lost` have what is lost in the rest of this task, and in tasks that it starts from now on.

    `prompt_tokens` returns about how many tokens an upstream reads in one request. `answers` is told the model, as the
    deployment serves it that answers now.
    """
    _listener.set(_Listener(lost, prompt_tokens, answers))


def report_answering(place: Model) -> None:
    """Say which deployment answers."""
    if (listener := _listener.get()) is not None:
        listener.answers(place)


def expect_prompt(tokens: Callable[[], int]) -> None:
    """Say how many tokens the requests of this task have, where that is another number than the call's."""
    if (listener := _listener.get()) is not None:
        _listener.set(replace(listener, prompt_tokens=tokens))


def report_lost_work(model: Model, usage: Usage | None = None) -> None:
    """Count what an upstream did for an answer that is lost; without `usage`, about what it read of the request."""
    if (listener := _listener.get()) is not None:
        read = listener.prompt_tokens
        listener.lost(model, completed(usage, lambda: Usage(input_tokens=read(), estimated=True)))
