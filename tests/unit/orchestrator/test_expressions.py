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
