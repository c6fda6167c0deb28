"""Memories written to a file come back the same, and what is not an export is refused with its line."""

import io
import json
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from coxswain.client import DocumentError, memory_file
from coxswain.client.memory_file import (
    Entry,
    Header,
    content_of,
    kind_from,
    kind_name,
    read_header,
    read_records,
)
from coxswain.memory.v1.memory_pb2 import Namespace
from coxswain.memory.v1.record_pb2 import (
    DocumentRecord,
    EntityRecord,
    LongTermRecord,
    MemoryKind,
    Record,
    Relationship,
    ShortTermRecord,
    UnifiedRecord,
)

PATH = Path("memories.jsonl")
RECORDS = [
    Record(id="1", unified=UnifiedRecord(content="Light", importance=0.5, categories=["a"]), embedding=[0.5, 0.25]),
    Record(id="2", short_term=ShortTermRecord(content="Bell", interaction_sequence=2**40)),
    Record(id="3", long_term=LongTermRecord(content="Horn")),
    Record(
        id="4", entity=EntityRecord(entity_name="Keeper", relationships=[Relationship(relation="kept", target="Light")])
    ),
    Record(id="5", document=DocumentRecord(content="Page", chunk_index=3)),
]


def written(header: Header, records: list[Record]) -> io.BytesIO:
    lines = [json.dumps(MessageToDict(record, preserving_proto_field_name=True)) for record in records]
    return io.BytesIO(("\n".join([header.line(), *lines]) + "\n").encode())


@pytest.mark.parametrize("kind", list(MemoryKind.values())[1:])
def test_a_header_comes_back_the_same(kind: MemoryKind.ValueType) -> None:
    header = Header(Namespace(memory_id="c", kind=kind), "offline/embed", embeddings=True)
    assert read_header(PATH, written(header, [])) == header
    assert kind_from(kind_name(kind).replace("_", "-")) == kind


@pytest.mark.parametrize("keep", [True, False])
def test_records_of_every_kind_come_back_the_same(keep: bool) -> None:
    for kind, record in enumerate(RECORDS, start=1):
        source = written(Header(Namespace(kind=MemoryKind.ValueType(kind)), "", embeddings=True), [record, record])
        header = read_header(PATH, source)
        first, second = read_records(PATH, source, header.namespace.kind, keep_vectors=keep)
        expected = Record()
        expected.CopyFrom(record)
        if not keep:
            expected.ClearField("embedding")
        assert (first.record, first.line) == (expected, 2)
        assert (second.record, second.line, second.end) == (expected, 3, len(source.getvalue()))


def test_a_record_without_an_id_is_the_same_record_whenever_it_is_read() -> None:
    lines = b'{"unified": {"content": "a"}}\n{"unified": {"content": "b"}}\r\n\n{"unified": {"content": "a"}}'
    ids = [[entry.record.id for entry in entries(lines)] for _ in range(2)]
    assert ids[0] == ids[1]
    assert ids[0][0] == ids[0][2] != ids[0][1]
    assert all(ids[0])


def entries(lines: bytes, keep: bool = True) -> list[Entry]:
    return list(read_records(PATH, io.BytesIO(lines), MemoryKind.MEMORY_KIND_UNIFIED, keep_vectors=keep))


def test_every_kind_of_record_says_something() -> None:
    assert [content_of(record) for record in RECORDS] == ["Light", "Bell", "Horn", "Keeper: kept Light", "Page"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "empty"),
        (b"\n", "empty"),
        (b"hello", "not an export"),
        (b"\x80\x81", "not an export"),
        (b"PK\x03\x04", "not an export"),
        (b"[]", "not an export"),
        (b"{}", "not an export"),
        (b"[" * 100_000, "not an export"),
        (b'{"format": "other"}', "not an export"),
        (b'{"format": "coxswain-memories", "version": 2}', "version 2 is not supported"),
        (b'{"format": "coxswain-memories", "version": 1, "memory_id": 3, "kind": "unified"}', "expected text"),
        (b'{"format": "coxswain-memories", "version": 1, "memory_id": "c", "kind": "odd"}', "expected one of unified"),
        (b'{"format": "coxswain-memories", "version": 1, "memory_id": "c"}', "expected one of unified"),
    ],
)
def test_a_file_that_is_no_export_is_refused(line: bytes, why: str) -> None:
    with pytest.raises(DocumentError) as caught:
        read_header(PATH, io.BytesIO(line))
    [problem] = caught.value.problems
    assert problem.line == 1
    assert why in problem.description


def test_a_byte_order_mark_that_an_editor_left_does_no_harm() -> None:
    header = Header(Namespace(memory_id="c", kind=MemoryKind.MEMORY_KIND_ENTITY), "m", embeddings=False)
    assert read_header(PATH, io.BytesIO(b"\xef\xbb\xbf" + header.line().encode())) == header


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "not valid JSON"),
        (
            b'{"id": "1", "unified": {"content": "x"}',
            "not valid JSON: Expecting ',' delimiter, at character 40 of the line",
        ),
        (b'{"unknown": 1}', '"unknown"'),
        (b'{"unified": {"importance": "much"}}', "importance"),
        (b"[]", "expected an object"),
        (b"3", "expected an object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"unified": {"content": "caf\xe9"}}', "not UTF-8: byte 29"),
        (b'{"id": "1"}', "found one without a kind"),
        (b'{"entity": {"entity_name": "x"}}', "expected a record of kind unified, found entity"),
    ],
)
def test_a_line_that_is_no_record_is_named(line: bytes, why: str) -> None:
    with pytest.raises(DocumentError) as caught:
        entries(b'{"id": "1", "unified": {"content": "x"}}\n\n' + line + b"\n")
    [problem] = caught.value.problems
    assert problem.line == 4
    assert why in problem.description
    assert "\n" not in problem.description


def test_a_line_without_an_end_is_not_read_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_file, "_MAX_LINE_BYTES", 100)
    with pytest.raises(DocumentError) as caught:
        entries(b'{"unified": {"content": "x"}}\n' + b"x" * 101)
    assert (caught.value.problems[0].line, caught.value.problems[0].description) == (3, "longer than 100 bytes")


@given(st.lists(st.binary(max_size=60)))
def test_whatever_a_file_holds_it_is_read_or_refused_with_its_line(lines: list[bytes]) -> None:
    data = b"\n".join(lines)
    try:
        read = [entry.line for entry in entries(data)]
    except DocumentError as error:
        read = [error.problems[0].line]
    assert all(2 <= line <= 2 + data.count(b"\n") for line in read)
