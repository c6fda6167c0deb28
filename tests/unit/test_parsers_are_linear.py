"""Twice as much from outside is at most two and a half times the work: nothing that is sent can hold up a process."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct

from coxswain.memory.v1.memory_pb2 import SaveRecordsRequest
from coxswain.memory.v1.record_pb2 import Record
from services.common.bounded_json import loads_bounded
from services.common.errors import FieldViolation, InvalidArgument
from services.common.grpc.field_masks import mask_paths
from services.common.grpc.json_values import from_struct
from services.common.grpc.nul_check import refuse_nul
from services.common.grpc.status import to_status
from services.common.grpc.validation import refuse_crowds
from services.common.paging import decode_page_token
from services.common.reading.pages import read_page
from services.common.retry_after import parse_retry_after
from services.common.schema_checks.process import check as check_answer
from services.memory.domain.filters import search_words
from services.memory.parsing.documents import read_document
from services.models.domain.conversation import ContentPart, Message, MessageRole
from services.models.providers.fault_reading import read_fault
from services.models.providers.json_documents import read_json
from services.models.providers.offline.extract import requested_length
from services.models.providers.offline.prompt import read_prompt
from services.models.providers.offline.sentences import split_sentences
from services.models.providers.openai.answer_reader import AnswerReader, read_answer
from services.models.providers.openai.events import EventParser
from services.models.providers.think_tags import ThinkTagSplitter
from services.models.providers.tool_call_assembly import ToolCallAssembler, read_piece
from services.models.providers.unicode_repair import JsonPieceRepair, repair_json
from services.orchestrator.cron import next_fire_time
from services.orchestrator.domain.crew import OutputCheck
from services.orchestrator.expressions import Expression
from services.orchestrator.output_checks import compile_check
from services.orchestrator.placeholders import interpolate, placeholders
from services.orchestrator.schemas.tool_schemas import schema_fault
from services.orchestrator.suggestions import suggestion
from services.orchestrator.worker.crew.text_splitter import split_text
from tests.support.growth import grows_too_fast, repeated

_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_USER = MessageRole.USER


def _in_pieces(make: Callable[[], Any], size: int, encoded: bool = False) -> Callable[[str], None]:
    def work(text: str) -> None:
        reader, whole = make(), text.encode() if encoded else text
        for start in range(0, len(whole), size):
            reader.feed(whole[start : start + size])
        reader.finish()

    return work


def _document(media_type: str) -> Callable[[str], object]:
    limits = {"chunk_characters": 100, "overlap_characters": 10, "most_characters": 10**7, "most_parts": 10**6}
    return lambda text: read_document(text.encode(), media_type, "", **limits)


def _checked(check: OutputCheck) -> Callable[[str], object]:
    compiled = compile_check(check)
    return lambda text: compiled(text, None)


def _answers(documents: list[Mapping[str, Any]]) -> None:
    reader = AnswerReader()
    for document in documents:
        reader.feed(document)
    reader.finish()


def _counted(documents: list[Mapping[str, Any]]) -> None:
    reader = AnswerReader()
    for document in documents:
        reader.feed(document)


def _assembled(pieces: list[Mapping[str, Any]]) -> None:
    assembler = ToolCallAssembler()
    for piece in pieces:
        assembler.add(read_piece(piece))
    assembler.finish()
    assembler.calls()


def _struct(size: int) -> Struct:
    struct = Struct()
    struct.update({"list": [{"a": [1, "b"]} for _ in range(size)]})
    return struct


def _delta(**fields: Any) -> Mapping[str, Any]:
    return {"choices": [{"index": 0, "delta": fields}]}


def _leading_far(size: int) -> Mapping[str, Any]:
    defined = {f"d{number}": {"$ref": f"#/$defs/d{number + 1}"} for number in range(size // 10)}
    return {"type": "object", "$defs": {**defined, f"d{size // 10}": {}}, "$ref": "#/$defs/d0"}


_JSON = ("[", '{"a":', "1", '"', "1,", "[],", "\\", '{"a":1},', "\\u", "\ud83d")
_MARKDOWN = ("a", "# a\n", "- a\n", "> ", "| a |\n", "```\n", "*", "[a](", "\n    a", "a\n===\n", "漢字")
_HTML = (
    "<div>",
    "<p>a",
    "<table><tr><td>",
    "<ul><li>",
    "<h1>a",
    "<a href=x>",
    "&amp;",
    "<!--",
    "<b>",
    "<",
    "<ul><li><b>a</b></li></ul>",
)
TEXTS: Mapping[str, tuple[Callable[[str], object], tuple[str, ...]]] = {
    # What reads texts, and the fragments that it is given over and over.
    "server-sent events, byte by byte": (
        _in_pieces(lambda: EventParser(10**9), 1, encoded=True),
        ("data: a\n\n", "data: a\n", "a", "\r", "\r\n", ": x\n"),
    ),
    "server-sent events": (_in_pieces(lambda: EventParser(10**9), 37, encoded=True), ("data: a\n\n", "a", "\r")),
    "thoughts": (_in_pieces(ThinkTagSplitter, 2), ("<think>", " ", "<think></thin", "\n")),
    "JSON in pieces": (_in_pieces(JsonPieceRepair, 3), ("\\u", "\\", "\ud83d", "\\\\u")),
    "broken JSON": (repair_json, ("\\u", "\\", "\ud83d", "\\\\u", "\\ud83d")),
    "a provider's JSON": (read_json, _JSON),
    "a list of a provider's": (lambda text: read_json(f"[{text}"), _JSON),
    "bounded JSON": (lambda text: loads_bounded(text.encode(errors="replace")), _JSON),
    "a bounded list": (lambda text: loads_bounded(b"[" + text.encode(errors="replace")), _JSON),
    "sentences": (split_sentences, ("a. ", "- a\n", "e.g. ", '"a." ', "one-", "| a |\n", "```\n", "Mr. ")),
    "a length that is asked for": (requested_length, ("one-", "at most one ", "three to ", "1 ", "a.b. ")),
    "a prompt": (
        lambda text: read_prompt([Message(_USER, (ContentPart(text),))]),
        ("Task: ", "\n\n", "This is the context", "Current Task: ", "a. "),
    ),
    "parts of knowledge": (lambda text: list(split_text(text)), ("a", "a. ", "\n", "é", "a\n\n")),
    "placeholders": (placeholders, ("{a}", "{", "{a", "{a-")),
    "filled placeholders": (lambda text: interpolate(text, {"a": "b"}), ("{a}", "{", "{a")),
    "an expression": (Expression, ("1+", "(", "!", "[1,", "a.", "a && ", '"a"+', "a?b:")),
    "a cron expression": (lambda text: next_fire_time(f"{text}1 * * * *", "", _NOW), ("1,", "*/1,", "1-2,", "L,")),
    "Retry-After": (lambda text: parse_retry_after(text, 60), ("9", "Mon, ", "a, ", "1-", "(", ":", " ")),
    "a page token": (lambda text: decode_page_token(text, "listing", {}), ("A", "=", "-", "é")),
    "words of a search": (search_words, ("a", "a ", "-", "é", "漢")),
    "words that are asked for": (
        _checked(OutputCheck(required_words=("b a",), forbidden_words=("a" * 50,))),
        ("a", "ab "),
    ),
    "a pattern": (_checked(OutputCheck(matches="(a+)+$")), ("a", "aab")),
    "a text document": (_document("text/plain"), ("a", "a. ", "\n", "漢字")),
    "a Markdown document": (_document("text/markdown"), _MARKDOWN),
    "a table": (_document("text/csv"), ("a", '"', "a,b\n", ",", '"a\n', ";")),
    "a page": (lambda text: read_page(text.encode(), "utf-8", "https://example.com"), _HTML),
    "an answer in a fence": (
        lambda text: check_answer({"type": "object"}, f"```json\n{text}\n```"),
        ("```\n", "<think>", "{", '{"a":'),
    ),
    "near names": (lambda text: suggestion(text, ["abab" * 50] * 20), ("ab", "a")),
}
THINGS: Mapping[str, tuple[Callable[[int], Any], Callable[[Any], object]]] = {
    # What is made of so many parts, and what reads it.
    "a field mask": (lambda n: FieldMask(paths=["a_b"] * n), lambda mask: mask_paths(mask, ["a_b", "c"])),
    "a wrong field mask": (
        lambda n: FieldMask(paths=[f"x{number}" for number in range(n)]),
        lambda mask: mask_paths(mask, ["a_b", "c"]),
    ),
    "NUL in a struct": (_struct, lambda struct: refuse_nul(struct, b"\0")),
    "crowds": (
        lambda n: SaveRecordsRequest(records=[Record(id="a")] * n),
        lambda request: refuse_crowds(request, 10**9),
    ),
    "a struct": (_struct, lambda struct: from_struct("field", struct)),
    "a status": (
        lambda n: [FieldViolation(f"field[{number}]", "is wrong") for number in range(n)],
        lambda violations: to_status(InvalidArgument.fields(violations), "request"),
    ),
    "near names of many": (
        lambda n: [f"name {number}" for number in range(n)],
        lambda names: suggestion("name of something", names),
    ),
    "pieces of one tool call": (
        lambda n: [{"index": 0, "id": "x", "function": {"name": "f", "arguments": '{"a": "\\"'}}] * n,
        _assembled,
    ),
    "many tool calls": (
        lambda n: [
            {"index": number, "id": f"c{number}", "function": {"name": "f", "arguments": "{}"}} for number in range(n)
        ],
        _assembled,
    ),
    "tool calls without ids": (lambda n: [{"function": {"name": "f", "arguments": "{}"}}] * n, _assembled),
    "tool calls without names": (
        lambda n: [{"index": number, "function": {"arguments": "{}"}} for number in range(n)],
        _assembled,
    ),
    "deltas of text": (lambda n: [_delta(content="a")] * n, _answers),
    "deltas of thoughts": (lambda n: [_delta(reasoning_content="a")] * n, _answers),
    "deltas in blocks": (lambda n: [_delta(content=[{"type": "text", "text": "a"}])] * n, _answers),
    "counts of other names in each event": (
        lambda n: [{"choices": [], "usage": {"prompt_tokens": 1, f"k{number}": 1}} for number in range(n)],
        _counted,
    ),
    "counts after one of many digits": (
        lambda n: [
            {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": " " + "1" * 100 * n}},
            *[{"choices": [], "usage": {"prompt_tokens": 1}}] * n,
        ],
        _counted,
    ),
    "a whole answer": (
        lambda n: {"choices": [{"message": {"content": [{"type": "text", "text": "a"}] * n}}]},
        read_answer,
    ),
    "an error with many fields": (
        lambda n: {"error": {f"k{number}": "x" for number in range(n)}},
        lambda e: read_fault(400, e),
    ),
    "an error with many details": (
        lambda n: {"detail": [{"msg": "a", "loc": ["b"]}] * n},
        lambda e: read_fault(400, e),
    ),
    "an error in many words": (lambda n: {"error": {"message": "try again in " * n}}, lambda e: read_fault(429, e)),
    "keys of an object": (
        lambda n: json.dumps({f"key {number}": number for number in range(n)}).encode(),
        loads_bounded,
    ),
    "a schema of many properties": (
        lambda n: {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(n // 10)}},
        schema_fault,
    ),
    "a schema of many schemas": (lambda n: {"type": "object", "allOf": [{}] * (n // 10)}, schema_fault),
    "a schema of many types": (lambda n: {"type": [{}, *map(str, range(n))]}, schema_fault),
    "a schema of many names": (lambda n: {"type": "object", "required": [{}, *map(str, range(n))]}, schema_fault),
    "a schema that leads far": (_leading_far, schema_fault),
}


_SIZES = {"an expression": 200, "a page": 2000}
"""Characters: expressions take long for little; pages are nested too deep only from some hundred elements on."""


@pytest.mark.parametrize("name", TEXTS)
def test_texts_take_linear_time(name: str) -> None:
    work, fragments = TEXTS[name]
    size = _SIZES.get(name, 1000)
    found = {fragment: grows_too_fast(repeated(fragment), work, size) for fragment in fragments}
    assert not {fragment: what for fragment, what in found.items() if what}


@pytest.mark.parametrize("name", THINGS)
def test_things_take_linear_time(name: str) -> None:
    make, work = THINGS[name]
    assert grows_too_fast(make, work, 500) == ""


def test_what_is_not_linear_is_found() -> None:
    def pairs(text: str) -> None:
        for _ in text:
            for _ in text:
                pass

    assert "lines" in grows_too_fast(repeated("a"), pairs, 100)

    def counts(text: str) -> None:
        [(text * (len(text) // 1000)).count("b") for _ in text]

    # With the cube: what grows with the square is too near the bound to be found on every busy machine.
    assert "seconds" in grows_too_fast(repeated("a"), counts, 500)
