"""Expressions in CEL: what they need, what they say, and that they end."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.orchestrator.expressions import BadExpression, Expression, NotEvaluated

GIVEN = {
    "tasks": {
        "draft": {"text": "A long letter", "structured": {"score": 7, "tags": ["a", "b"]}, "skipped": False},
        "my task": {"text": "", "structured": None, "skipped": True},
    },
    "inputs": {"limit": 5},
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("tasks.draft.structured.score > inputs.limit", True),
        ("tasks.draft.text.contains('letter') && !tasks.draft.skipped", True),
        ("tasks['my task'].skipped ? false : true", False),
        ("tasks.draft.structured.tags.exists(tag, tag == 'b')", True),
        ("tasks.draft.text.matches('^[a-z]+$')", False),
        ("size(tasks.draft.text) < 5", False),
        ("has(tasks.draft.structured.missing)", False),
        ("tasks['my task'].structured == null", True),
    ],
)
def test_a_condition_is_about_what_it_is_given(text: str, holds: bool) -> None:
    assert Expression(text).holds(GIVEN) is holds


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tasks.draft.structured.missing > 1", "missing"),
        ("tasks.draft.text", "neither true nor false"),
        ("tasks.draft.text > 1", "types do not fit"),
        ("1 / 0 == 1", "divide by zero"),
        ("nobody.knows", "nobody"),
    ],
)
def test_what_has_no_value_is_told(text: str, told: str) -> None:
    with pytest.raises(NotEvaluated, match=told):
        Expression(text).holds(GIVEN)


@pytest.mark.parametrize(
    "text", ["", "tasks.", "a b", "(", "tasks.draft.text ==", '"' + "\\n" * 500, "x" * 3000, "\x00", "é("]
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(BadExpression):
        Expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "size(x.none) < 3",
        "size(x.number) < 3",
        "size(x.yes) < 3",
        "x.list[-1] < 3",
        "x.text[0] == 'a'",
        "x.list[2] < 3",
    ],
)
def test_what_has_no_size_or_no_such_item_has_no_value(text: str) -> None:
    given = {"none": None, "number": 1, "yes": True, "list": [1, 2], "text": "abc"}
    with pytest.raises(NotEvaluated):
        Expression(text).holds({"x": given})


@pytest.mark.parametrize(
    "text",
    [
        "size(x.text) == 3",
        "x.text.size() == 3",
        "size(x.list) == 2",
        "size(x) == 2",
        "size(b'ab') == 2",
        "x.list[1] == 2",
    ],
)
def test_what_has_a_size_or_an_item_says_it(text: str) -> None:
    assert Expression(text).holds({"x": {"list": [1, 2], "text": "abc"}})


@pytest.mark.parametrize("text", ["(" * 500 + "1" + ")" * 500 + " == 1", "!" * 1000 + "true"])
def test_deep_expressions_are_refused_or_evaluated(text: str) -> None:
    with contextlib.suppress(BadExpression, NotEvaluated):
        Expression(text).holds({})


def test_macros_within_macros_end() -> None:
    numbers = "[" + ",".join(map(str, range(100))) + "]"
    nested = f"{numbers}.all(a, {numbers}.all(b, {numbers}.all(c, {numbers}.all(d, a + b + c + d >= 0))))"
    with pytest.raises(NotEvaluated, match="too many steps"):
        Expression(nested).holds({})
    with pytest.raises(NotEvaluated, match="too many steps"):
        Expression("+".join(["t"] * 60) + " == ''").holds({"t": "x" * 1_000_000})


def test_names_and_members_are_known_before() -> None:
    text = "tasks.draft.text == '' || tasks['my task'].skipped || inputs.n in [1].map(tasks_, tasks_ + m)"
    expression = Expression(text)
    assert expression.names() == {"tasks", "inputs", "m"}
    assert list(expression.members("inputs")) == ["n"]
    assert sorted(map(str, expression.members("tasks"))) == ["draft", "my task"]
    for dynamic in (
        "tasks[inputs.n].text == ''",
        "tasks == inputs",
        "tasks.exists(t, true)",
        "tasks['a' + 'b'].skipped",
    ):
        assert None in set(Expression(dynamic).members("tasks"))


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab.[]()'\"\\!&|?:<>=+-*/%{}0123456789, rtin", max_size=60))
def test_any_text_is_refused_or_has_a_value_or_has_none(text: str) -> None:
    with contextlib.suppress(BadExpression, NotEvaluated):
        Expression(text).holds({"a": 1, "b": {"t": "x"}})


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        # Numbers are compared by their value, whichever way they are written.
        ("x == 1", 1.0, True),
        ("x > 1.5", 2, True),
        ("x > 100", 100.5, True),
        ("1u == x", 1, True),
        ("x >= 9007199254740993", 9007199254740992.0, False),
        ("x > 100", 10**30, True),
        ("x > 100", -(10**30), False),
        ("x in [1, 2]", 2.0, True),
        ("x == [1, {'a': 2}]", [1.0, {"a": 2.0}], True),
        # Null is equal to null alone.
        ("x == null", None, True),
        ("x == null", 0, False),
        ("x == null", False, False),
        ("x != null", "", True),
        ("x == 0", None, False),
        ("x == false", None, False),
        ("x == [null]", [0], False),
        ("type(x) == bool", True, True),
        ("type(x) == int", True, False),
        ("type(x) == null_type", None, True),
        ("string(x) == 'true'", True, True),
        ("bool(x)", "true", True),
        ("int(x) == 7", "7", True),
        ("double(x) == 0.5", "0.5", True),
        ("int(x) == 1", 1.9, True),
        ("false < x", True, True),
        ("{1: 'a'}[x] == 'a'", 1, True),
        ("[10, 20][x] == 20", 1, True),
        ("x.exists(i, i == null)", [1, None], True),
    ],
)
def test_values_are_what_they_are_in_json(text: str, value: object, holds: bool) -> None:
    assert Expression(text).holds({"x": value}) is holds


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, True) for text in ("x == 1", "x != 1", "x < 2", "1 < x", "2.5 > x", "x + 1 == 2", "x * 2 == 2")),
        *(
            (text, True)
            for text in ("x in [1]", "x in {1: 'a'}", "{1: 'a'}[x] == 'a'", "[10, 20][x] == 20", "-x == -1")
        ),
        *((text, True) for text in ("int(x) == 1", "double(x) == 1.0", "uint(x) == 1u", "x % 2 == 1", "x == y")),
        *(
            (text, None)
            for text in ("int(x) == 0", "double(x) == 0.0", "uint(x) == 0u", "string(x) == 'null'", "bool(x)")
        ),
        *((text, None) for text in ("x > 100", "x <= 100", "x + 1 == 1", "x < 'b'", "!x", "x ? true : true")),
        *((text, 1) for text in ("x == true", "x in [true]", "{true: 'a'}[x] == 'a'", "bool(x)", "!x", "x && true")),
        ("x == [1]", [True]),
        ("x == {'a': 1}", {"a": True}),
        ("x.exists(i, i == 1)", [True]),
        ("x > 100", "200"),
        ("x > 100", float("nan")),
        ("x > 100", float("inf")),
        ("int(x) == 0", "none"),
        ("double(x) > 0.0 || false", "a lot"),
    ],
)
def test_values_of_one_kind_are_not_taken_for_another(text: str, value: object) -> None:
    with pytest.raises(NotEvaluated):
        Expression(text).holds({"x": value, "y": 1})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in"]), JSON, JSON)
def test_operators_agree_with_each_other_on_any_json(operator: str, left: object, right: object) -> None:
    variables = {"x": left, "y": right}

    def value(text: str) -> bool | None:
        try:
            return Expression(text).holds(variables)
        except NotEvaluated:
            return None

    found = value(f"x {operator} y")
    opposite = {"==": "!=", "!=": "=="}.get(operator)
    if opposite is not None and found is not None:
        assert value(f"x {opposite} y") is not found
    mirrored = {"==": "==", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}.get(operator)
    if mirrored is not None:
        assert value(f"y {mirrored} x") is found
    if isinstance(left, bool) != isinstance(right, bool) and operator in ("<", "<=", ">", ">="):
        assert found is None
