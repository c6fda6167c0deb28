"""Memories as files of JSON lines: a header, then one record a line."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from google.protobuf.json_format import ParseDict, ParseError

from coxswain.client.documents import DocumentError, Problem
from coxswain.memory.v1.memory_service_pb2 import DeriveCrewIdRequest, Namespace
from coxswain.memory.v1.record_pb2 import MemoryKind, Record
from coxswain.orchestrator.v1.crew_pb2 import CrewSpec

_FORMAT = "coxswain-memories"
_VERSION = 1
_PREFIX = "MEMORY_KIND_"


@dataclass(frozen=True, slots=True)
class Header:
    """Where the records of a file come from."""

    namespace: Namespace
    embedding_model: str
    """The model of the vectors, or that the vectors had which were left out."""
    embeddings: bool
    """Whether the records hold their vectors."""

    def line(self) -> str:
        """The header as the first line of a file."""
        return json.dumps(
            {
                "format": _FORMAT,
                "version": _VERSION,
                "crew_id": self.namespace.crew_id,
                "kind": kind_name(self.namespace.kind),
                "embedding_model": self.embedding_model,
                "embeddings": self.embeddings,
            }
        )


def kind_name(kind: int) -> str:
    """A kind as people write it."""
    return MemoryKind.Name(MemoryKind.ValueType(kind)).removeprefix(_PREFIX).lower()


def kind_from(name: str) -> MemoryKind.ValueType:
    """The kind of a name. Raises ValueError listing the names."""
    names = [kind_name(number) for number in list(MemoryKind.values())[1:]]
    if name.lower().replace("-", "_") not in names:
        raise ValueError(f"kind {name!r}: expected one of {', '.join(names)}")
    return MemoryKind.Value(_PREFIX + name.upper().replace("-", "_"))


def crew_id_request(spec: CrewSpec) -> DeriveCrewIdRequest:
    """What the memories of a crew lie under: its document alone, whatever model an execution names."""
    return DeriveCrewIdRequest(
        agent_roles=[agent.role for agent in spec.agents],
        task_names=[task.name for task in spec.tasks],
        crew_name=spec.name,
        model=spec.model,
        run_name=spec.memory.run_name,
    )


def content_of(record: Record) -> str:
    """What a record says, whatever its kind."""
    kind = record.WhichOneof("kind")
    if kind == "entity":
        entity = record.entity
        links = "; ".join(f"{link.relation} {link.target}" for link in entity.relationships)
        return ": ".join(part for part in (entity.entity_name, entity.description, links) if part)
    return str(getattr(record, kind).content) if kind else ""


def read_header(path: Path, source: IO[str]) -> Header:
    """The first line of a file. Raises DocumentError when it is no export."""
    problem = Problem("", "no export: its first line is not that of `coxswain memory export`", 1)
    try:
        given = json.loads(source.readline())
        if given["format"] != _FORMAT:
            raise DocumentError(path, [problem])
        if given["version"] != _VERSION:
            raise DocumentError(path, [Problem("version", f"{given['version']!r} is not known; {_VERSION} is", 1)])
        namespace = Namespace(crew_id=given["crew_id"], kind=kind_from(given["kind"]))
        return Header(namespace, str(given["embedding_model"]), bool(given["embeddings"]))
    except DocumentError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DocumentError(path, [problem]) from error


def read_records(path: Path, source: IO[str], *, keep_vectors: bool) -> Iterator[tuple[Record, int]]:
    """The records behind the header, each with how many bytes of the file are read so far.

    Raises DocumentError with the line of the first record that is none.
    """
    # Text files tell no position while they are iterated: count what was read.
    position = 0
    for number, line in enumerate(source, start=2):
        position += len(line.encode())
        if not line.strip():
            continue
        try:
            given = json.loads(line)
            if not isinstance(given, dict):
                raise ValueError("expected an object")
            record: Record = ParseDict(given, Record())
        except (ValueError, ParseError) as error:
            raise DocumentError(path, [Problem("", f"no record: {error}", number)]) from error
        if not keep_vectors:
            record.ClearField("embedding")
        yield record, position
