"""Placeholders: what counts as one, what is asked for, and how inputs are filled in."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.domain.crew import AgentSpec, ApprovalSpec, CrewSpec, TaskSpec
from services.orchestrator.placeholders import interpolate, placeholders, required_inputs

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_\-]{0,8}", fullmatch=True)
PLAIN = st.text(alphabet=st.characters(exclude_characters="{}"), max_size=20)
ANY_TEXT = st.text(alphabet="{}ab_-1 \"':,\n", max_size=60)


@given(st.lists(st.tuples(PLAIN, NAMES), max_size=6), PLAIN)
def test_every_name_in_braces_is_found_once_in_order(parts: list[tuple[str, str]], end: str) -> None:
    text = "".join(f"{plain}{{{name}}}" for plain, name in parts) + end
    assert placeholders(text) == list(dict.fromkeys(name for _, name in parts))


@given(st.lists(st.tuples(PLAIN, NAMES), max_size=6), st.dictionaries(NAMES, st.text(alphabet="{}abc", max_size=12)))
def test_inputs_are_filled_in_once_and_never_read_for_placeholders_themselves(
    parts: list[tuple[str, str]], given_inputs: dict[str, str]
) -> None:
    inputs = {name: given_inputs.get(name, "{a}") for _, name in parts}
    text = "".join(f"{plain}{{{name}}}" for plain, name in parts)
    assert interpolate(text, inputs) == "".join(f"{plain}{inputs[name]}" for plain, name in parts)


@given(ANY_TEXT)
def test_text_without_placeholders_is_left_as_it_is(text: str) -> None:
    if not placeholders(text):
        assert interpolate(text, {}) == text


@given(ANY_TEXT)
def test_we_find_the_placeholders_that_crewai_would_fill_in(text: str) -> None:
    assert placeholders(text) == list(dict.fromkeys(re.findall(r"\{([A-Za-z_][A-Za-z0-9_\-]*)}", text)))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(3, "3"), (1.5, "1.5"), (True, "true"), (None, "null"), (["é"], '["é"]'), ({"a": 1}, '{"a": 1}')],
)
def test_values_that_are_no_text_stand_as_json(value: object, shown: str) -> None:
    assert interpolate("<{x}>", {"x": value}) == f"<{shown}>"


def test_a_crew_asks_for_the_inputs_of_all_its_texts_and_says_where() -> None:
    spec = CrewSpec(
        name="c",
        agents=(AgentSpec("a", "{role}", "{goal} {role}", "{past} {not a name} {1st}"),),
        tasks=(
            TaskSpec("t", 'about {topic}: {"json": 1}', "in {style}", approval=ApprovalSpec("May {who} have {topic}?")),
        ),
    )
    assert required_inputs(spec) == {
        "role": "spec.agents[0].role",
        "goal": "spec.agents[0].goal",
        "past": "spec.agents[0].backstory",
        "topic": "spec.tasks[0].description",
        "style": "spec.tasks[0].expected_output",
        "who": "spec.tasks[0].approval.question",
    }
