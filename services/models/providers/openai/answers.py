"""Answers of a model's upstream: their deltas, failures as the caller gets them, and lost work."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

from services.common.errors import CoxswainError, DeadlineExceeded
from services.models.domain.answer import (
    Answer,
    Delta,
    FinishDelta,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    UsageDelta,
)
from services.models.providers.lost_work import report_lost_work
from services.models.providers.openai.answer_reader import AnswerReader, read_answer
from services.models.providers.openai.response_errors import AnswerFailed, BadResponse
from services.models.providers.openai.thinking import ThinkingReader
from services.models.providers.upstream_errors import bad_response, unavailable, upstream_failure
from services.models.providers.upstreams import Attempt
from services.models.providers.usage_reading import read_usage

T = TypeVar("T")


def read(attempt: Attempt, reader: Callable[[Any], T], document: Any) -> T:
    """Return what `reader` makes of a response to an attempt.

    Raises:
        CoxswainError: the response cannot be read, or is an error.
    """
    try:
        return reader(document)
    except (BadResponse, AnswerFailed) as error:
        raise _failure(attempt, error) from error


def _failure(attempt: Attempt, error: BadResponse | AnswerFailed) -> CoxswainError:
    if isinstance(error, AnswerFailed):
        return upstream_failure(attempt.model, error.fault, attempt.credential)
    return bad_response(attempt.model, str(error))


def read_document(attempt: Attempt, reader: Callable[[Any], T], document: Any) -> T:
    """Return what `reader` makes of a whole response; see `read`. One that is of no use is paid for too."""
    try:
        return read(attempt, reader, document)
    except CoxswainError:
        if isinstance(document, dict) and (usage := read_usage(document.get("usage"))) is not None:
            report_lost_work(attempt.model, usage)
        raise


def read_whole(attempt: Attempt, document: Any, *, split_thoughts: bool = True) -> Answer:
    """Return the whole answer of the model's upstream to an attempt.

    Raises:
        CoxswainError: the document holds none, or an error.
    """

    def whole(body: Any) -> Answer:
        return read_answer(body, split_thoughts=split_thoughts, thinking=ThinkingReader(attempt.model))

    return read_document(attempt, whole, document)


async def read_stream(
    attempt: Attempt, batches: AsyncGenerator[Sequence[Any], None], *, split_thoughts: bool = True
) -> AsyncGenerator[Delta, None]:
    """Yield an answer as its events come: text, reasoning and tool calls, then usage if there is any, then the finish.

    `batches` are closed at its end. What events of one batch say is joined, as each delta is a message to the caller.

    Raises:
        CoxswainError: an event cannot be read or is an error, or the events end before the finish.
    """
    model = attempt.model
    reader = AnswerReader(split_thoughts, ThinkingReader(model))
    heard = passed_on = False
    try:
        async with aclosing(batches):
            async for batch in batches:
                deltas: list[Delta] = []
                try:
                    for document in batch:
                        deltas += reader.feed(document)
                except (BadResponse, AnswerFailed) as error:
                    for delta in _joined(deltas):
                        passed_on = True
                        yield delta
                    raise _failure(attempt, error) from error
                heard = True
                for delta in _joined(deltas):
                    passed_on = True
                    yield delta
        if (fault := reader.fault()) is not None:
            raise upstream_failure(model, fault, attempt.credential)
        if not reader.begun:
            raise bad_response(model, "it holds no answer")
        if not reader.ended:
            raise unavailable(model, "ended its stream before the answer was complete")
        for delta in read(attempt, lambda _: reader.finish(), None):
            passed_on = True
            yield delta
    except BaseException as error:
        # Whoever got a part of the answer knows that it began; nobody else does. An upstream that is given up while it
        # works has it paid for as well, though all that came was that it is at work.
        gave_up = not isinstance(error, CoxswainError) or isinstance(error, DeadlineExceeded)
        if (reader.begun or (heard and gave_up)) and not passed_on:
            report_lost_work(model, reader.usage)
        raise
    if reader.usage is not None:
        yield UsageDelta(reader.usage)
    assert reader.finish_reason is not None
    yield FinishDelta(reader.finish_reason, reader.upstream_model)


def _joined(deltas: list[Delta]) -> list[Delta]:
    """Return the same answer in as few deltas as possible."""
    if len(deltas) < 2:
        return deltas
    joined: list[Delta] = []
    for delta in deltas:
        match (joined[-1] if joined else None), delta:
            case TextDelta(before), TextDelta(after):
                joined[-1] = TextDelta(before + after)
            case ReasoningDelta(before), ReasoningDelta(after):
                joined[-1] = ReasoningDelta(before + after)
            case ToolCallDelta() as call, ToolCallDelta(index, "", "", after, "") if call.index == index:
                joined[-1] = replace(call, arguments_json=call.arguments_json + after)
            case _:
                joined.append(delta)
    return joined
