"""Memories written to a file come back the same, and what is no export is refused with its line."""

import io
import json
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict

from coxswain.client import DocumentError
from coxswain.client.memory_file import (
    Header,
    content_of,
    crew_id_request,
    kind_from,
    kind_name,
    read_header,
    read_records,
)
from coxswain.memory.v1.memory_service_pb2 import Namespace
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
from coxswain.orchestrator.v1.crew_pb2 import AgentSpec, CrewSpec, MemorySpec, TaskSpec

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


def written(header: Header, records: list[Record]) -> io.StringIO:
    lines = [json.dumps(MessageToDict(record, preserving_proto_field_name=True)) for record in records]
    return io.StringIO("\n".join([header.line(), *lines]) + "\n")


@pytest.mark.parametrize("kind", list(MemoryKind.values())[1:])
def test_a_header_comes_back_the_same(kind: MemoryKind.ValueType) -> None:
    header = Header(Namespace(crew_id="c", kind=kind), "offline/embed", embeddings=True)
    assert read_header(PATH, written(header, [])) == header
    assert kind_from(kind_name(kind).replace("_", "-")) == kind


@pytest.mark.parametrize("keep", [True, False])
def test_records_of_every_kind_come_back_the_same(keep: bool) -> None:
    source = written(Header(Namespace(kind=MemoryKind.MEMORY_KIND_UNIFIED), "", embeddings=True), RECORDS)
    read_header(PATH, source)
    found = [record for record, _ in read_records(PATH, source, keep_vectors=keep)]
    assert [record.id for record in found] == ["1", "2", "3", "4", "5"]
    assert list(found[0].embedding) == ([0.5, 0.25] if keep else [])
    assert found[1:] == RECORDS[1:]


def test_every_kind_of_record_says_something() -> None:
    assert [content_of(record) for record in RECORDS] == ["Light", "Bell", "Horn", "Keeper: kept Light", "Page"]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        "[]",
        "{}",
        '{"format": "other"}',
        '{"format": "coxswain-memories", "version": 2}',
        '{"format": "coxswain-memories", "version": 1, "crew_id": 3, "kind": "unified"}',
        '{"format": "coxswain-memories", "version": 1, "crew_id": "c", "kind": "odd"}',
    ],
)
def test_a_file_that_is_no_export_is_refused(line: str) -> None:
    with pytest.raises(DocumentError) as caught:
        read_header(PATH, io.StringIO(line))
    assert caught.value.problems[0].line == 1


@pytest.mark.parametrize("line", ["{", '{"unknown": 1}', '{"unified": {"importance": "much"}}', "[]", "3"])
def test_a_line_that_is_no_record_is_named(line: str) -> None:
    source = io.StringIO(json.dumps({"id": "1"}) + "\n\n" + line + "\n")
    with pytest.raises(DocumentError) as caught:
        list(read_records(PATH, source, keep_vectors=True))
    assert caught.value.problems[0].line == 4


def test_a_crews_memories_lie_under_what_makes_it_the_same_crew() -> None:
    spec = CrewSpec(
        name="brief",
        model="m",
        agents=[AgentSpec(name="a", role="Reader of {topic}")],
        tasks=[TaskSpec(name="t")],
        memory=MemorySpec(enabled=True, run_name="weekly"),
    )
    request = crew_id_request(spec)
    assert (list(request.agent_roles), list(request.task_names)) == (["Reader of {topic}"], ["t"])
    assert (request.crew_name, request.model, request.run_name) == ("brief", "m", "weekly")
