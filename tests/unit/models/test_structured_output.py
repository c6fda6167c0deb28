"""Answers are checked against schemas, and no schema or answer can hold the process."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.common.errors import FailedPrecondition, Unavailable
from services.common.schema_checks.checker import MAX_CHARACTERS, Checked, SchemaChecker
from services.models.domain.answer import Answer, FinishReason
from services.models.domain.conversation import (
    Completion,
    ContentPart,
    Message,
    MessageRole,
    ResponseFormat,
    ToolDefinition,
)
from services.models.domain.model import Model, ModelSpec, Provider
from services.models.domain.usage import Usage
from services.models.usecases.structured_output import StreamedText, StructuredOutput, Verdict
from tests.support.waiting import PATIENCE

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = Model("1", "", ModelSpec("openai/m", Provider.OPENAI), enabled=True, created_at=NOW, updated_at=NOW)
PRICE: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"price": {"type": "number"}, "kind": {"enum": ["a", "b"]}},
                "required": ["price", "kind"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["items"],
}
GOOD = '{"items": [{"price": 1, "kind": "a"}]}'
ASKED = Completion(
    "m",
    (Message(MessageRole.USER, (ContentPart("What is it?"),)),),
    response_format=ResponseFormat("prices", PRICE),
)


@pytest.fixture
async def checker(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SchemaChecker]:
    # A check ends with its processor time, however long that takes on a busy machine.
    monkeypatch.setattr("services.common.schema_checks.checker._LONGEST_SECONDS", PATIENCE)
    checker = SchemaChecker()
    yield checker
    await checker.close()


def answer(text: str, finish: FinishReason = FinishReason.STOP, **fields: Any) -> Answer:
    return Answer(text, "", (), finish, Usage(5, 3, cost=0.5), "m", **fields)


@pytest.mark.parametrize(
    ("text", "found", "thoughts"),
    [
        (GOOD, GOOD, ""),
        (f"\n {GOOD}\n", f"\n {GOOD}\n", ""),
        (f"```json\n{GOOD}\n```", GOOD, ""),
        (f"```\n{GOOD}```\n", GOOD, ""),
        (f"<think>so {{</think>\n\n{GOOD}", GOOD, "so {"),
        (f"<think>so</think>```JSON\r\n{GOOD}\r\n```", GOOD, "so"),
    ],
)
async def test_json_is_taken_out_of_what_surrounds_it(
    checker: SchemaChecker, text: str, found: str, thoughts: str
) -> None:
    assert await checker.check("g", PRICE, text) == Checked(found, thoughts, ())


@pytest.mark.parametrize(
    ("text", "violations"),
    [
        ("hello", ["the answer: has to be JSON and nothing else"]),
        ("", ["the answer: has to be JSON and nothing else"]),
        (f"Here it is: ```json\n{GOOD}\n```", ["the answer: has to be JSON and nothing else"]),
        (f"```json\n{GOOD}\n``` as you wished", ["the answer: has to be JSON and nothing else"]),
        (f"```python\n{GOOD}\n```", ["the answer: has to be JSON and nothing else"]),
        ("[" * 100_000, ["the answer: must not be nested deeper than 100 levels"]),
        ("[" * 100_000 + "]" * 100_000, ["the answer: must not be nested deeper than 100 levels"]),
        ('{"a":' * 101 + "1" + "}" * 101, ["the answer: must not be nested deeper than 100 levels"]),
        ('{"a":' * 100 + "1" + "}" * 100, ["the answer: has to have items"]),
        ("[]", ["the answer: has to be of type object"]),
        ("{}", ["the answer: has to have items"]),
        ('{"items": [{}]}', ["items[0]: has to have price, kind"]),
        ('{"items": [{"price": "x", "kind": "a"}]}', ["items[0].price: has to be of type number"]),
        ('{"items": [{"price": 1, "kind": "z"}]}', ['items[0].kind: has to be one of ["a", "b"]']),
        (
            '{"items": [{"price": 1, "kind": "a", "secret word": 1}]}',
            ["items[0]: must not have properties that the schema does not name"],
        ),
    ],
)
async def test_what_does_not_follow_is_named_by_path_and_rule(
    checker: SchemaChecker, text: str, violations: list[str]
) -> None:
    assert list((await checker.check("g", PRICE, text)).violations) == violations


async def test_nothing_of_an_answer_is_in_what_is_said_about_it(checker: SchemaChecker) -> None:
    schema = {"additionalProperties": {"type": "integer", "maximum": 3}, "propertyNames": {"maxLength": 3}}
    found = await checker.check("g", schema, '{"private": "private", "b": 77, "own": [1]}')
    assert set(found.violations) == {
        "*: has to be of type integer",
        "*: has to follow maximum 3",
        "the answer: has to follow maxLength 3",
    }


async def test_any_object_will_do_where_no_schema_is_given(checker: SchemaChecker) -> None:
    assert not (await checker.check("g", {}, '{"a": 1}')).violations
    assert (await checker.check("g", {}, "[1]")).violations == ("the answer: has to be of type object",)


async def test_a_long_list_of_faults_is_cut(checker: SchemaChecker) -> None:
    found = await checker.check("g", {"items": {"type": "string"}}, json.dumps(list(range(100))))
    assert len(found.violations) == 10


def nested_alternatives(depth: int) -> Mapping[str, Any]:
    definitions: dict[str, Any] = {
        f"d{level}": {"anyOf": [{"$ref": f"#/$defs/d{level + 1}"}] * 2} for level in range(depth)
    }
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{depth}": {"type": "string"}}}


async def test_a_schema_of_many_rules_in_each_other_goes_along_with_the_deepest_answer(checker: SchemaChecker) -> None:
    rules: Mapping[str, Any] = {"$ref": "#/$defs/node"}
    for _ in range(8):
        rules = {"allOf": [{"oneOf": [rules]}]}
    node = {
        "type": "object",
        "properties": {"value": {}, "child": rules},
        "required": ["value"],
        "additionalProperties": False,
    }
    schema = {"$defs": {"node": node}, "$ref": "#/$defs/node"}
    good = '{"value": 1, "child": ' * 99 + '{"value": 1}' + "}" * 99
    assert await checker.check("g", schema, good) == Checked(good)
    assert (await checker.check("g", schema, good.replace('{"value": 1}', '{"secret": 1}'))).violations


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"pattern": "^(a+)+$"}, json.dumps("a" * 60 + "!")),
        ({"patternProperties": {"^(a|aa)+$": {"type": "string"}}}, json.dumps({"a" * 60 + "!": 1})),
        (nested_alternatives(40), "1"),
        ({"uniqueItems": True}, json.dumps([{"a": [index]} for index in range(20_000)])),
    ],
)
async def test_a_check_without_end_is_given_up_and_the_next_one_is_made(
    checker: SchemaChecker, schema: Mapping[str, Any], text: str
) -> None:
    hard = asyncio.ensure_future(checker.check("g", schema, text))
    easy = asyncio.ensure_future(checker.check("other", PRICE, "{}"))
    assert await hard == Checked(text, unchecked="time")
    assert (await easy).violations
    process = psutil.Process()
    helpers = [
        child for child in process.children() if any("schema_checks/process.py" in part for part in child.cmdline())
    ]
    assert len(helpers) == 1, "the process went on"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "https://example.com/schema.json"},
        {"$ref": "file:///etc/passwd"},
        {"$ref": "#/$defs/none"},
        {"type": "strange"},
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"multipleOf": 0},
        {"required": 7},
    ],
)
async def test_a_schema_that_means_nothing_checks_nothing(checker: SchemaChecker, schema: Mapping[str, Any]) -> None:
    text = '{"a": 1}' if "required" in schema else "1"
    found = await checker.check("g", schema, text)
    assert (found.text, found.violations) == (text, ())
    assert found.unchecked


async def test_a_pattern_that_python_does_not_know_is_left_out(checker: SchemaChecker) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": r"^\p{L}+$"}}}
    assert not (await checker.check("g", schema, '{"a": "x"}')).violations
    assert (await checker.check("g", schema, '{"a": 1}')).violations == ("a: has to be of type string",)


async def test_schemas_of_older_drafts_mean_what_they_meant(checker: SchemaChecker) -> None:
    schema = {"$schema": "http://json-schema.org/draft-04/schema#", "maximum": 3, "exclusiveMaximum": True}
    assert (await checker.check("g", schema, "3")).violations
    assert not (await checker.check("g", schema, "2")).violations


async def test_very_long_answers_are_not_checked(checker: SchemaChecker) -> None:
    text = "1" * (MAX_CHARACTERS + 1)
    found = await checker.check("g", {"type": "string"}, text)
    assert (found.text, found.violations, found.unchecked) == (text, (), "length")


async def test_an_answer_is_checked_by_another_process_when_the_first_has_died(checker: SchemaChecker) -> None:
    assert (await checker.check("g", PRICE, "{}")).violations
    for child in psutil.Process().children():
        if any("schema_checks" in argument for argument in child.cmdline()):
            child.kill()
    assert (await checker.check("g", PRICE, "{}")).violations


async def test_an_answer_is_not_checked_when_no_process_lives(checker: SchemaChecker, tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text("raise SystemExit(1)")
    checker._helper._program = tmp_path / "ends.py"
    assert await checker.check("g", PRICE, "{}") == Checked("{}", unchecked="process")


class Again:
    """Answers the call for a correction."""

    def __init__(self, answer: Answer | Exception) -> None:
        self.answer = answer
        self.asked: list[Completion] = []

    async def __call__(self, completion: Completion) -> Answer:
        self.asked.append(completion)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_a_good_answer_costs_one_call(checker: SchemaChecker) -> None:
    again = Again(answer(GOOD))
    settled = await StructuredOutput(checker).settle("g", MODEL, ASKED, answer(f"```\n{GOOD}\n```"), again)
    assert (settled.text, settled.usage, again.asked) == (GOOD, Usage(5, 3, cost=0.5), [])


async def test_the_model_is_shown_what_is_wrong_and_its_good_answer_is_returned(checker: SchemaChecker) -> None:
    again = Again(answer(GOOD))
    settled = await StructuredOutput(checker).settle("g", MODEL, ASKED, answer('{"items": 7}'), again)
    assert (settled.text, settled.usage) == (GOOD, Usage(10, 6, cost=1.0))
    [correction] = again.asked
    assert correction.messages[:-2] == ASKED.messages
    shown, request = correction.messages[-2:]
    assert (shown.role, shown.text, request.role) == (MessageRole.ASSISTANT, '{"items": 7}', MessageRole.USER)
    assert "- items: has to be of type array" in request.text
    assert correction.response_format == ASKED.response_format


@pytest.mark.parametrize(
    ("second", "violations"),
    [
        (answer("hello"), "the answer: has to be JSON and nothing else"),
        (answer('{"items": ', FinishReason.LENGTH), "the answer: was cut off or calls tools"),
        (Unavailable("the upstream failed", reason="UPSTREAM_UNAVAILABLE"), "the answer: has to have items"),
    ],
)
async def test_a_second_failure_is_an_error_of_its_own(
    checker: SchemaChecker, second: Answer | Exception, violations: str
) -> None:
    with pytest.raises(FailedPrecondition) as failure:
        await StructuredOutput(checker).settle("g", MODEL, ASKED, answer("{}"), Again(second))
    assert failure.value.reason == "SCHEMA_NOT_FOLLOWED"
    assert failure.value.metadata == {"model": "openai/m", "violations": violations}
    if isinstance(second, Exception):
        assert "the upstream failed" in failure.value.message


@pytest.mark.parametrize("finish", [FinishReason.LENGTH, FinishReason.CONTENT_FILTER, FinishReason.TOOL_CALLS])
async def test_an_answer_that_is_none_is_left_alone(checker: SchemaChecker, finish: FinishReason) -> None:
    again = Again(answer(GOOD))
    given = answer("hello", finish)
    assert await StructuredOutput(checker).settle("g", MODEL, ASKED, given, again) is given
    assert again.asked == []


async def test_tools_are_not_called_instead_of_a_correction(checker: SchemaChecker) -> None:
    again = Again(answer(GOOD))
    with_tools = Completion("m", ASKED.messages, (ToolDefinition("f", "", {}),), "required", ASKED.response_format)
    await StructuredOutput(checker).settle("g", MODEL, with_tools, answer("{}"), again)
    assert again.asked[0].tool_choice == "none"


async def test_streamed_text_is_judged_as_it_was_passed_on(checker: SchemaChecker) -> None:
    structured = StructuredOutput(checker)

    async def judged(*pieces: str) -> Verdict:
        text = StreamedText()
        for piece in pieces:
            text.add(piece)
        return await structured.judge("g", ASKED, text)

    assert await judged(GOOD[:5], GOOD[5:]) == Verdict()
    assert await judged("{}") == Verdict(("the answer: has to have items",))
    assert await judged("```json\n", GOOD, "\n```") == Verdict(
        ("the answer: has to be JSON alone, without a code fence or thoughts",)
    )
    assert await judged("x" * MAX_CHARACTERS, "x") == Verdict(unchecked="length")
