"""Checks of results without a model: what passes, what is told, and what cannot be checked."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.domain.crew import OutputCheck, OutputLength
from services.orchestrator.output_checks import BadCheck, compile_check

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "pattern": "^[a-z]+$"}, "pages": {"type": "integer", "minimum": 1}},
    "required": ["name", "pages"],
}


@pytest.mark.parametrize(
    ("check", "text", "told"),
    [
        (OutputCheck(matches="^[A-Z]{3}-[0-9]+$"), "ABC-12", ""),
        (OutputCheck(matches="^[A-Z]{3}-[0-9]+$"), "ABC-12 or so", "has to match the pattern ^[A-Z]{3}-[0-9]+$"),
        (OutputCheck(matches_not="(?i)as an ai"), "As an AI I cannot", "must not match"),
        (OutputCheck(matches_not="(?i)as an ai"), "All is said.", ""),
        (OutputCheck(characters=OutputLength(min=3)), "ab", "has 2 characters and needs at least 3"),
        (OutputCheck(characters=OutputLength(max=3)), "abcd", "has 4 characters and may have at most 3"),
        (OutputCheck(words=OutputLength(2, 3)), " one  two\nthree ", ""),
        (OutputCheck(words=OutputLength(2, 3)), "one", "has 1 words"),
        (OutputCheck(required_words=("risk free", "Größe")), "RISK FREE grösse", ""),
        (OutputCheck(required_words=("risk free", "size")), "risky, freely; sizes", "risk free, size"),
        (OutputCheck(forbidden_words=("cat",)), "concatenate", ""),
        (OutputCheck(forbidden_words=("cat", "c++")), "the CAT. C++!", "must not have cat, c++"),
        (OutputCheck(json_schema=SCHEMA), '{"name": "moby", "pages": 3}', ""),
        (OutputCheck(json_schema=SCHEMA), '{"name": "Moby", "pages": 0}', "'Moby' does not match"),
        (OutputCheck(json_schema=SCHEMA), "Here you are: {}", "has to be JSON and nothing else"),
        (OutputCheck(json_schema=SCHEMA), "[" * 100_000, "has to be JSON"),
        (OutputCheck(expression="output.text.size() < 5"), "four", ""),
        (OutputCheck(expression="output.text.size() < 5"), "fives", "output.text.size() < 5 has to be true of it"),
        (OutputCheck(expression="output.structured.n > 1"), "x", "cannot be evaluated"),
        (OutputCheck(matches="^x$", message="Write x."), "y", "Write x."),
    ],
)
def test_a_check_tells_what_is_wrong(check: OutputCheck, text: str, told: str) -> None:
    wrong = compile_check(check)(text, None)
    assert bool(wrong) == bool(told)
    assert told in wrong


@pytest.mark.parametrize(
    ("check", "told"),
    [
        (OutputCheck(matches="(a"), "missing )"),
        (OutputCheck(matches=r"(a)\1"), "RE2"),
        (OutputCheck(matches_not="(?=a)b"), "RE2"),
        (OutputCheck(matches="((a{0,100}){0,100}){0,100}"), "RE2"),
        (OutputCheck(words=OutputLength()), "needs min or max"),
        (OutputCheck(characters=OutputLength(5, 4)), "min 5 above max 4"),
        (OutputCheck(json_schema={"type": "objekt"}), "not a valid JSON schema"),
        (OutputCheck(json_schema={"properties": {"a": {"pattern": "("}}}), "regular expression"),
        (OutputCheck(json_schema={"patternProperties": {"(?=a)": {}}}), "RE2"),
        (OutputCheck(json_schema={"patternProperties": {}, "unevaluatedProperties": False}), "together"),
        (OutputCheck(json_schema={"$ref": "https://example.com/s"}), "outside of itself"),
        (OutputCheck(json_schema={"$ref": "#/$defs/none"}), 'there is no "#/$defs/none"'),
        (OutputCheck(expression="output.text."), "not valid CEL"),
        (OutputCheck(expression="answer.text == ''"), "names answer"),
    ],
)
def test_what_cannot_be_checked_is_refused(check: OutputCheck, told: str) -> None:
    with pytest.raises(BadCheck) as refused:
        compile_check(check)
    assert told in str(refused.value)


def test_no_pattern_takes_for_ever() -> None:
    hostile = "a" * 50_000 + "!"
    schema = {"type": "string", "pattern": "^(a+)+$"}
    names = {"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}
    started = time.process_time()
    assert compile_check(OutputCheck(json_schema=names))(json.dumps({hostile: 1}), None)
    assert compile_check(OutputCheck(matches="^(a+)+$"))(hostile, None)
    assert compile_check(OutputCheck(json_schema=schema))(json.dumps(hostile), None)
    assert time.process_time() - started < 60


@given(st.text(max_size=30), st.text(min_size=1, max_size=3))
def test_any_word_is_found_in_a_text_or_not(text: str, word: str) -> None:
    required = compile_check(OutputCheck(required_words=(word,)))
    forbidden = compile_check(OutputCheck(forbidden_words=(word,)))
    assert bool(required(text, None)) != bool(forbidden(text, None))
    assert not required(f" {word} ", None)
