"""Whatever pieces an upstream sends, callers get whole tool calls: numbered, named once, with unique ids."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.models.domain.answer import ToolCallDelta
from services.models.providers.tool_call_assembly import ToolCallAssembler, _JsonBalance, read_piece


def _call(
    index: int | None = None, call_id: Any = None, name: str | None = None, arguments: Any = None
) -> dict[str, Any]:
    call: dict[str, Any] = {} if index is None else {"index": index}
    if call_id is not None:
        call["id"] = call_id
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return call | ({"function": function} if function else {})


def _assemble(pieces: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Append the deltas as a client does, and hold them to what the proto promises."""
    assembler = ToolCallAssembler()
    deltas: list[ToolCallDelta] = []
    for piece in pieces:
        deltas += assembler.add(read_piece(piece))
    deltas += assembler.finish()
    calls: dict[int, list[str]] = {}
    for delta in deltas:
        if delta.index not in calls:
            assert delta.index == len(calls)
            assert delta.id
            assert delta.name
            calls[delta.index] = [delta.id, delta.name, delta.arguments_json]
        else:
            assert not delta.id
            assert not delta.name
            calls[delta.index][2] += delta.arguments_json
    assert len({call[0] for call in calls.values()}) == len(calls)
    whole = [(call.id, call.name, call.arguments_json) for call in assembler.calls()]
    assert sorted(whole) == sorted((call[0], call[1], call[2]) for call in calls.values())
    return [(call[0], call[1], call[2]) for call in calls.values()]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        pytest.param(
            [_call(0, "a", "f", '{"x"'), _call(0, "a", "f", ":1"), _call(0, "a", "f", "}")],
            [("a", "f", '{"x":1}')],
            id="id and name in every piece",
        ),
        pytest.param(
            [
                _call(0, "a", "f", '{"x"'),
                _call(1, "b", "g", '{"y"'),
                _call(0, "a", "f", ":1}"),
                _call(1, "b", "g", ":2}"),
            ],
            [("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')],
            id="two calls that alternate",
        ),
        pytest.param(
            [
                _call(0, "a", "f", '{"x"'),
                _call(1, "b", "g", '{"y"'),
                _call(0, arguments=":1}"),
                _call(1, arguments=":2}"),
            ],
            [("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')],
            id="continued by index alone",
        ),
        pytest.param(
            [_call(None, "a", "f", '{"x":1}'), _call(None, "b", "g", '{"y":2}')],
            [("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')],
            id="no index",
        ),
        pytest.param(
            [_call(None, "a", "f", '{"x":1}'), _call(None, "b", "f", '{"x":1}')],
            [("a", "f", '{"x":1}'), ("b", "f", '{"x":1}')],
            id="no index, the same function twice",
        ),
        pytest.param(
            [_call(0, "a", "f", '{"x":1}'), _call(0, "b", "g", '{"y":2}')],
            [("a", "f", '{"x":1}'), ("b", "g", '{"y":2}')],
            id="index 0 for both",
        ),
        pytest.param([_call(0, "a", "f", "")], [("a", "f", "{}")], id="no arguments"),
        pytest.param([_call(0, "a", "f"), _call(0, arguments=" ")], [("a", "f", " {}")], id="blank arguments"),
        pytest.param(
            [_call(0, "a", "f", '{"x"'), _call(0, arguments=":1}"), _call(0, "a", "f", '{"x":1}')],
            [("a", "f", '{"x":1}')],
            id="the whole call again at the end",
        ),
        pytest.param([_call(2**40, "a", "f", "{}")], [("a", "f", "{}")], id="a huge index"),
        pytest.param([_call(-1, "a", "f", "{}")], [("a", "f", "{}")], id="a negative index"),
        pytest.param([{}, _call(0, "a", "f", "{}")], [("a", "f", "{}")], id="an empty piece first"),
        pytest.param([_call(0, "a", "f", {"x": 1})], [("a", "f", '{"x": 1}')], id="arguments as an object"),
        pytest.param(
            [_call(0, "a"), _call(0, name="f", arguments="{}")], [("a", "f", "{}")], id="the name comes later"
        ),
        pytest.param([_call(0, "a", None, '{"x":1}')], [], id="no name at all"),
        pytest.param(
            [_call(0, "a", "f", '{"s":"}\\""'), _call(0, "a", "f", ',"t":"{"}')],
            [("a", "f", '{"s":"}\\"","t":"{"}')],
            id="braces and quotes inside strings",
        ),
    ],
)
def test_calls_are_assembled_from_pieces(pieces: list[dict[str, Any]], expected: list[tuple[str, str, str]]) -> None:
    assert _assemble(pieces) == expected


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([_call(0, None, "f", '{"x":1}')], [("f", '{"x":1}')]),
        ([_call(0, None, "f", '{"x":1}'), _call(1, None, "g", "{}")], [("f", '{"x":1}'), ("g", "{}")]),
        ([_call(0, "id", "f", '{"x": 1}'), _call(0, "", "g", "{}")], [("f", '{"x": 1}'), ("g", "{}")]),
        ([_call(0, None, "f", '{"x"'), _call(0, None, "f", ":1}")], [("f", '{"x":1}')]),
        ([_call(None, None, "f", '{"x":1}'), _call(None, None, "f", '{"x":2}')], [("f", '{"x":1}'), ("f", '{"x":2}')]),
        ([_call(None, None, "f", "{}"), _call(None, None, "f", "{}")], [("f", "{}"), ("f", "{}")]),
        ([_call(0, "same", "f", "{}"), _call(1, "same", "g", "{}")], [("f", "{}"), ("g", "{}")]),
    ],
)
def test_ids_are_made_up_where_none_came_and_are_unique(
    pieces: list[dict[str, Any]], expected: list[tuple[str, str]]
) -> None:
    assert [(name, arguments) for _, name, arguments in _assemble(pieces)] == expected
    first, second = ({call[0] for call in _assemble(pieces)} - {"id", "same"} for _ in range(2))
    assert not first & second


_CALLS = st.lists(
    st.tuples(
        st.sampled_from(["f", "g", "h"]),
        st.dictionaries(st.text(max_size=4), st.text(max_size=6) | st.integers() | st.none(), max_size=3),
    ),
    min_size=1,
    max_size=4,
)


@given(_CALLS, st.data())
def test_any_cutting_of_calls_with_ids_gives_the_calls(calls: list[tuple[str, dict[str, Any]]], data: Any) -> None:
    repeated = data.draw(st.booleans())
    queues: list[list[dict[str, Any]]] = []
    for number, (name, arguments) in enumerate(calls):
        text = json.dumps(arguments, ensure_ascii=False)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=3)))
        parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        queues.append(
            [
                _call(number, f"id{number}", name, part) if repeated or not position else _call(number, arguments=part)
                for position, part in enumerate(parts)
            ]
        )
    order: list[dict[str, Any]] = []
    started = 0
    while any(queues):
        # Calls begin in their order; their pieces may alternate.
        ready = [queue for queue in queues[: started + 1] if queue]
        queue = data.draw(st.sampled_from(ready)) if ready else queues[started]
        started = max(started, queues.index(queue) + 1) if queue is queues[min(started, len(queues) - 1)] else started
        order.append(queue.pop(0))
    expected = [(f"id{number}", name, arguments) for number, (name, arguments) in enumerate(calls)]
    assert [(call_id, name, json.loads(text)) for call_id, name, text in _assemble(order)] == expected


@given(
    st.lists(
        st.builds(
            _call,
            st.none() | st.integers(-1, 2),
            st.none() | st.sampled_from(["", "a", "b"]) | st.integers(),
            st.none() | st.sampled_from(["", "f", "g"]),
            st.none() | st.sampled_from(["", "{", "}", '{"x":1}', '"', "\\"]) | st.integers(),
        ),
        max_size=8,
    )
)
def test_no_pieces_break_the_promise(pieces: list[dict[str, Any]]) -> None:
    _assemble(pieces)


@given(
    st.dictionaries(
        st.text('a"\\{}[]', max_size=6), st.text('a"\\{}[]é', max_size=6) | st.lists(st.integers()), max_size=4
    ),
    st.booleans(),
    st.data(),
)
def test_arguments_are_complete_at_their_end_and_never_before(
    value: dict[str, Any], plain: bool, data: st.DataObject
) -> None:
    text = json.dumps(value, ensure_ascii=plain)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6).map(sorted))
    balance = _JsonBalance()
    for start, end in itertools.pairwise([0, *cuts, len(text)]):
        if piece := text[start:end]:
            balance.feed(piece)
        assert balance.complete == (end == len(text))
