"""Whole answers and streams of every dialect give the same answer, or say why there is none."""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import CoxswainError
from services.models.domain.answer import Delta, FinishDelta, FinishReason, ReasoningDelta, TextDelta, ToolCallDelta
from services.models.domain.model import Model, ModelSpec, Provider
from services.models.domain.usage import Usage
from services.models.providers.fault_reading import FaultKind
from services.models.providers.lost_work import listen_for_work
from services.models.providers.openai.answer_reader import AnswerReader, read_answer
from services.models.providers.openai.answers import read_document, read_stream
from services.models.providers.openai.embeddings import read_embeddings
from services.models.providers.openai.response_errors import AnswerFailed, BadResponse
from services.models.providers.retries import too_late
from services.models.providers.upstream_errors import unavailable
from services.models.providers.upstreams import Attempt, CallId

_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_MODEL = Model("1", "", ModelSpec("m", Provider.OPENAI), enabled=True, created_at=_NOW, updated_at=_NOW)
_ATTEMPT = Attempt(_MODEL, math.inf, math.inf, CallId())


def _whole(message: dict[str, Any], finish: Any = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": finish}], **more}


def _events(*deltas: dict[str, Any], finish: Any = "stop") -> list[dict[str, Any]]:
    return [{"choices": [{"delta": delta}]} for delta in deltas] + [
        {"choices": [{"delta": {}, "finish_reason": finish}]}
    ]


def _stream(events: list[dict[str, Any]]) -> tuple[str, str, list[tuple[str, str]], FinishReason | None]:
    reader = AnswerReader()
    deltas = [delta for event in events for delta in reader.feed(event)] + reader.finish()
    calls: dict[int, list[str]] = {}
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            call = calls.setdefault(delta.index, ["", ""])
            call[0] += delta.name
            call[1] += delta.arguments_json
    return (
        "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)),
        "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta)),
        [(name, arguments) for name, arguments in calls.values()],
        reader.finish_reason,
    )


def _both(message: dict[str, Any], finish: Any = "stop") -> tuple[str, str, list[tuple[str, str]], FinishReason | None]:
    """Return what an answer gives, held to be the same whole and streamed."""
    answer = read_answer(_whole(message, finish))
    whole = (
        answer.text,
        answer.reasoning,
        [(call.name, call.arguments_json) for call in answer.tool_calls],
        answer.finish_reason,
    )
    assert _stream(_events(message, finish=finish)) == whole
    return whole


_CALL = {"id": "a", "function": {"name": "f", "arguments": '{"x":1}'}}


@pytest.mark.parametrize(
    ("message", "finish", "expected"),
    [
        ({"content": "hi"}, "stop", ("hi", "", [], FinishReason.STOP)),
        ({"content": "hi"}, "max_tokens", ("hi", "", [], FinishReason.LENGTH)),
        ({"content": "hi"}, "MAX_TOKENS", ("hi", "", [], FinishReason.LENGTH)),
        ({"content": "hi"}, "something_new", ("hi", "", [], FinishReason.STOP)),
        ({"content": None}, "SAFETY", ("", "", [], FinishReason.CONTENT_FILTER)),
        ({"content": None}, "PROHIBITED_CONTENT", ("", "", [], FinishReason.CONTENT_FILTER)),
        ({"content": ""}, "refusal", ("", "", [], FinishReason.CONTENT_FILTER)),
        ({"content": None, "refusal": "I cannot"}, "stop", ("I cannot", "", [], FinishReason.CONTENT_FILTER)),
        ({"content": "hello"}, "tool_calls", ("hello", "", [], FinishReason.STOP)),
        ({"content": None, "tool_calls": [_CALL]}, "stop", ("", "", [("f", '{"x":1}')], FinishReason.TOOL_CALLS)),
        (
            {"content": None, "function_call": {"name": "f", "arguments": '{"x":1}'}},
            "function_call",
            ("", "", [("f", '{"x":1}')], FinishReason.TOOL_CALLS),
        ),
        ({"content": "<think>think</think>hello"}, "stop", ("hello", "think", [], FinishReason.STOP)),
        (
            {"content": "hello", "reasoning_details": [{"type": "reasoning.text", "text": "think"}]},
            "stop",
            ("hello", "think", [], FinishReason.STOP),
        ),
        ({"content": "x\ud83d", "reasoning": "y\ud83d"}, "stop", ("x\ufffd", "y\ufffd", [], FinishReason.STOP)),
        (
            {"content": [{"type": "reasoning", "summary": [{"text": "t"}]}, {"type": "text", "text": "a"}]},
            "stop",
            ("a", "t", [], FinishReason.STOP),
        ),
    ],
)
def test_answers_are_the_same_whole_and_streamed(message: dict[str, Any], finish: Any, expected: Any) -> None:
    assert _both(message, finish) == expected


def test_calls_without_ids_and_arguments_in_one_answer_stay_apart() -> None:
    message = {"tool_calls": [{"function": {"name": "f"}}, {"function": {"name": "f", "arguments": ""}}]}
    calls = read_answer(_whole(message)).tool_calls
    assert [(call.name, call.arguments_json) for call in calls] == [("f", "{}"), ("f", "{}")]
    assert calls[0].id != calls[1].id


def test_what_a_provider_wants_back_is_kept() -> None:
    extra = {"google": {"thought_signature": "sig"}}
    message = {"tool_calls": [_CALL | {"extra_content": extra}]}
    assert read_answer(_whole(message)).tool_calls[0].provider_state == '{"google": {"thought_signature": "sig"}}'


def test_half_characters_are_joined_across_pieces_of_each_field() -> None:
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x":"\ud83d'}}
    rest = {"index": 0, "function": {"arguments": '\ude00"}'}}
    events = _events({"content": "\ud83d"}, {"tool_calls": [call]}, {"content": "\ude00"}, {"tool_calls": [rest]})
    assert _stream(events) == ("😀", "", [("f", '{"x":"😀"}')], FinishReason.TOOL_CALLS)


def test_a_whole_answer_in_the_place_of_a_stream_is_the_answer() -> None:
    assert _stream([_whole({"content": "hello"})])[0] == "hello"


def test_error_null_is_no_error() -> None:
    assert _stream([event | {"error": None} for event in _events({"content": "hello"})])[0] == "hello"


@pytest.mark.parametrize("finish", ["error", "ERROR", "MALFORMED_FUNCTION_CALL", "insufficient_system_resource"])
def test_an_end_with_an_error_is_an_error(finish: str) -> None:
    with pytest.raises(AnswerFailed) as whole:
        read_answer(_whole({"content": "half"}, finish))
    assert whole.value.fault.kind is FaultKind.UNAVAILABLE
    with pytest.raises(AnswerFailed):
        _stream(_events({"content": "half"}, finish=finish))


@pytest.mark.parametrize(
    "document",
    [
        {"error": {"message": "This model's maximum context length is 8192 tokens", "code": 400}},
        {"object": "error", "message": "This model's maximum context length is 8192 tokens", "code": 400},
        [{"error": {"message": "The input token count (9) exceeds the maximum number of tokens allowed", "code": 400}}],
    ],
)
def test_errors_in_the_place_of_an_answer_keep_their_meaning(document: Any) -> None:
    for read in (read_answer, AnswerReader().feed):
        with pytest.raises(AnswerFailed) as failed:
            read(document)
        assert failed.value.fault.kind is FaultKind.CONTEXT_WINDOW


@pytest.mark.parametrize(
    "document",
    [None, 7, "text", [], {}, {"choices": []}, {"choices": {}}, {"choices": [7]}, {"choices": [{"message": 7}]}],
)
def test_what_is_no_answer_is_refused(document: Any) -> None:
    with pytest.raises(BadResponse):
        read_answer(document)


@pytest.mark.parametrize("message", [{"content": 7}, {"content": [7]}, {"tool_calls": {}}, {"tool_calls": [7]}])
def test_malformed_messages_are_refused(message: dict[str, Any]) -> None:
    with pytest.raises(BadResponse):
        read_answer(_whole(message))


def test_an_empty_answer_that_ended_for_an_unknown_reason_is_refused() -> None:
    with pytest.raises(BadResponse):
        read_answer(_whole({"content": ""}, "odd"))


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": 0, "completion_tokens": 0}])
@pytest.mark.parametrize("content", ["", None, []])
async def test_an_empty_answer_for_which_nothing_was_counted_is_refused(content: Any, usage: Any) -> None:
    document = _whole({"content": content}, "stop") | {"usage": usage}
    with pytest.raises(BadResponse, match="no token was counted"):
        read_answer(document)
    assert await _deltas([_piece(content=content)], [{"choices": [{"delta": {}, "finish_reason": "stop"}]}]) == []


@pytest.mark.parametrize("count", [0, 1])
async def test_a_model_may_say_nothing(count: int) -> None:
    usage = {"usage": {"prompt_tokens": 9, "completion_tokens": count}}
    answer = read_answer(_whole({"content": ""}, "stop") | usage)
    assert (answer.text, answer.finish_reason) == ("", FinishReason.STOP)
    ended = {"choices": [{"delta": {"content": ""}, "finish_reason": "stop"}]}
    # Most send it in an event of its own, after the finish.
    assert isinstance((await _deltas([ended], [{"choices": []} | usage]))[-1], FinishDelta)


@pytest.mark.parametrize("message", [{"reasoning": "so"}, {"refusal": "no"}, {"content": "<think>so</think>"}])
def test_an_answer_with_reasoning_or_a_refusal_alone_is_not_empty(message: dict[str, Any]) -> None:
    assert read_answer(_whole(message, "stop")).finish_reason is not None


@pytest.mark.parametrize("word", ["length", "content_filter"])
def test_an_empty_answer_that_was_ended_is_told_as_such(word: str) -> None:
    assert read_answer(_whole({"content": ""}, word)).finish_reason is not FinishReason.STOP


async def _deltas(*batches: list[dict[str, Any]]) -> list[Delta]:
    async def come() -> AsyncGenerator[list[dict[str, Any]], None]:
        for batch in batches:
            yield batch

    deltas: list[Delta] = []
    with contextlib.suppress(CoxswainError):
        async for delta in read_stream(_ATTEMPT, come()):
            deltas.append(delta)
    return deltas


def _piece(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"delta": delta}]}


_EVENTS = st.lists(
    st.one_of(
        st.builds(lambda text: _piece(content=text), st.text(max_size=3)),
        st.builds(lambda text: _piece(reasoning=text), st.text(max_size=3)),
        st.builds(
            lambda index, text: _piece(tool_calls=[{"index": index, "function": {"arguments": text}}]),
            st.integers(0, 1),
            st.text(max_size=3),
        ),
        st.builds(
            lambda index, name: _piece(
                tool_calls=[{"index": index, "id": f"call-{name}", "function": {"name": name, "arguments": ""}}]
            ),
            st.integers(0, 1),
            st.sampled_from("fg"),
        ),
    ),
    max_size=12,
)


@given(_EVENTS)
async def test_what_comes_together_is_told_in_fewer_deltas_and_says_the_same(events: list[dict[str, Any]]) -> None:
    events = [*events, {"choices": [{"delta": {"content": "."}, "finish_reason": "stop"}]}]
    apart, together = await _deltas(*([event] for event in events)), await _deltas(events)

    def told(deltas: list[Delta], kind: type[TextDelta | ReasoningDelta]) -> str:
        return "".join(delta.text for delta in deltas if isinstance(delta, kind))

    def called(deltas: list[Delta]) -> dict[int, tuple[str, ...]]:
        calls: dict[int, tuple[str, ...]] = {}
        for delta in deltas:
            if isinstance(delta, ToolCallDelta):
                name, arguments = calls.get(delta.index, ("", ""))
                calls[delta.index] = (name + delta.name, arguments + delta.arguments_json)
        return calls

    assert told(together, TextDelta) == told(apart, TextDelta)
    assert told(together, ReasoningDelta) == told(apart, ReasoningDelta)
    assert called(together) == called(apart)
    assert len(together) <= len(apart)


async def test_text_that_came_together_is_one_delta() -> None:
    words = [_piece(content=word) for word in ("To ", "be ", "or")]
    assert (await _deltas([_piece(role="assistant"), *words]))[:1] == [TextDelta("To be or")]


async def test_what_came_with_an_error_is_told_before_it() -> None:
    assert await _deltas([_piece(content="half"), {"error": {"message": "an accident"}}]) == [TextDelta("half")]


@pytest.mark.parametrize(
    ("first", "end", "reported"),
    [
        ({"choices": [], "prompt_filter_results": []}, asyncio.CancelledError(), 1),
        ({"choices": [], "prompt_filter_results": []}, too_late(_MODEL), 1),
        ({"choices": [], "prompt_filter_results": []}, unavailable(_MODEL, "failed"), 0),
        (_piece(role="assistant"), unavailable(_MODEL, "failed"), 1),
        (_piece(content="half"), asyncio.CancelledError(), 0),
    ],
    ids=["cancelled at work", "late at work", "failed before it began", "failed when it had begun", "passed on"],
)
async def test_work_of_which_nothing_was_passed_on_is_reported(
    first: dict[str, Any], end: BaseException, reported: int
) -> None:
    lost: list[Usage] = []
    listen_for_work(lambda _, usage: lost.append(usage), lambda: 7, lambda _: None)

    async def come() -> AsyncGenerator[list[dict[str, Any]], None]:
        yield [first]
        raise end

    with pytest.raises(type(end)):
        async for _ in read_stream(_ATTEMPT, come()):
            pass
    assert lost == [Usage(input_tokens=7, estimated=True)] * reported


def test_vectors_of_no_use_are_reported_as_they_were_counted() -> None:
    lost: list[Usage] = []
    listen_for_work(lambda _, usage: lost.append(usage), lambda: 7, lambda _: None)
    document = {"data": [], "usage": {"prompt_tokens": 70, "total_tokens": 70}}
    with pytest.raises(CoxswainError, match="0 embeddings for 1 texts"):
        read_document(_ATTEMPT, lambda body: read_embeddings(body, 1), document)
    assert lost == [Usage(input_tokens=70)]


def test_only_one_of_several_answers_is_read() -> None:
    events = [
        {"choices": [{"index": index, "delta": {"content": text}}]} for index, text in ((0, "A"), (1, "B"), (0, "a"))
    ]
    ends: list[dict[str, Any]] = [
        {"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]} for index in (1, 0)
    ]
    assert _stream([*events, *ends])[0] == "Aa"
    # Whatever the upstream counts from.
    assert _stream([{"choices": [{"index": 1, "delta": {"content": "A"}, "finish_reason": "stop"}]}])[0] == "A"


def test_a_number_in_the_place_of_a_reason_is_an_end() -> None:
    assert _stream(_events({"content": "hello"}, finish=3))[0] == "hello"
    reader = AnswerReader()
    for event in _events({"content": "hello"}, finish=False):
        reader.feed(event)
    assert not reader.ended


def test_empty_documents_and_blocks_are_passed_over() -> None:
    assert _stream([None, *_events({"content": [None, "a", {"type": "text", "text": "b"}]})])[0] == "ab"  # type: ignore[list-item]
    assert read_answer(_whole({"content": "hello"}, error={})).text == "hello"
    with pytest.raises(BadResponse):
        read_answer(None)
    with pytest.raises(BadResponse):
        read_answer({"error": {}})


@pytest.mark.parametrize("name", ["\ud83d\0", "m" * 1_000_000, 5, None])
def test_the_name_of_the_model_can_be_sent_whatever_it_is(name: Any) -> None:
    found = read_answer(_whole({"content": "hello"}, model=name)).upstream_model
    assert len(found.encode()) <= 256
    assert "\0" not in found


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"index": 1, "embedding": [0, 1]}, {"index": 0, "embedding": [1, 0]}], [[1, 0], [0, 1]]),
        ([{"index": 0, "embedding": [0, 1]}, {"index": 0, "embedding": [1, 0]}], [[0, 1], [1, 0]]),
        ([{"index": 1, "embedding": [[0, 1]]}, {"index": 1, "embedding": [[1, 0]]}], [[0, 1], [1, 0]]),
        ([{"embedding": [[0, 1], [1, 0]]}, {"embedding": [[0, 1], [1, 0]]}], None),
        ([{"embedding": 1}, {"embedding": 2}], None),
    ],
)
def test_embeddings_are_those_of_their_texts(rows: list[dict[str, Any]], expected: Any) -> None:
    if expected is None:
        with pytest.raises(BadResponse):
            read_embeddings({"data": rows}, 2)
    else:
        assert read_embeddings({"data": rows}, 2).vectors.tolist() == expected
