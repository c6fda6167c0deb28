"""Exports of memories as JSON lines: a header, then one record per line."""

import codecs
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from google.protobuf.json_format import ParseDict, ParseError

from coxswain.client.documents import DocumentError, Problem
from coxswain.memory.v1.memory_pb2 import Namespace
from coxswain.memory.v1.record_pb2 import MemoryKind, Record

_FORMAT = "coxswain-memories"
_VERSION = 1
_PREFIX = "MEMORY_KIND_"
_MAX_LINE_BYTES = 32 * 1024 * 1024
"""More than any record has, escapes and vector included."""


@dataclass(frozen=True, slots=True)
class Header:
    """The origin of the records of a file."""

    namespace: Namespace
    embedding_model: str
    """The model of the vectors, also when the vectors themselves were left out."""
    embeddings: bool
    """Whether the records hold their vectors."""
    crew_name: str = ""
    """The crew they belong to, where its name is known."""

    def line(self) -> str:
        """The header as the first line of a file."""
        return json.dumps(
            {
                "format": _FORMAT,
                "version": _VERSION,
                "memory_id": self.namespace.memory_id,
                "kind": kind_name(self.namespace.kind),
                "embedding_model": self.embedding_model,
                "embeddings": self.embeddings,
                "crew_name": self.crew_name,
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


def content_of(record: Record) -> str:
    """The text of a record of any kind."""
    kind = record.WhichOneof("kind")
    if kind == "entity":
        entity = record.entity
        links = "; ".join(f"{link.relation} {link.target}" for link in entity.relationships)
        return ": ".join(part for part in (entity.entity_name, entity.description, links) if part)
    return str(getattr(record, kind).content) if kind else ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record of a file."""

    record: Record
    line: int
    """Line number, from 1."""
    end: int
    """Bytes of the file up to the end of this record."""


def read_header(path: Path | str, source: IO[bytes]) -> Header:
    """The first line of a file. Raises DocumentError when the file is not an export."""
    line = _read_line(path, source, 1).removeprefix(codecs.BOM_UTF8)
    if not line.strip():
        raise _refused(
            path, 1, "not an export: the file is empty" if not line else "not an export: the first line is empty"
        )
    try:
        given = _object(line)
        if given["format"] != _FORMAT:
            raise ValueError(_FORMAT)
        # Earlier exports name the id after the crew.
        version, memory_id = given["version"], given.get("memory_id", given.get("crew_id", ""))
        kind = given.get("kind", "")
    except (ValueError, KeyError) as error:
        raise _refused(
            path, 1, "not an export: the first line is not the header that `coxswain memory export` writes"
        ) from error
    if version != _VERSION:
        raise DocumentError(path, [Problem("version", f"version {version!r} is not supported; expected {_VERSION}", 1)])
    if not isinstance(memory_id, str):
        raise DocumentError(path, [Problem("memory_id", "expected text", 1)])
    try:
        namespace = Namespace(memory_id=memory_id, kind=kind_from(str(kind)))
    except ValueError as error:
        raise _refused(path, 1, str(error)) from error
    return Header(
        namespace,
        str(given.get("embedding_model", "")),
        bool(given.get("embeddings")),
        str(given.get("crew_name", "")),
    )


def read_records(path: Path | str, source: IO[bytes], kind: int, *, keep_vectors: bool) -> Iterator[Entry]:
    """The records after the header, all of one kind. A record without an id gets one derived from its line.

    Raises DocumentError with the line of the first invalid record.
    """
    position = source.tell() if source.seekable() else 0
    number = 1
    expected = kind_name(kind)
    while line := _read_line(path, source, number + 1):
        number += 1
        position += len(line)
        if not line.strip():
            continue
        try:
            given = _object(line)
            if isinstance(given.get("metadata"), str):
                # Earlier exports hold it as text.
                given["metadata"] = json.loads(given["metadata"] or "{}")
            record: Record = ParseDict(given, Record())
        except ParseError as error:
            # Only the first line: the others list fields by names that no file has.
            raise _refused(path, number, f"not a valid record: {str(error).splitlines()[0]}") from error
        except ValueError as error:
            raise _refused(path, number, f"not a valid record: {error}") from error
        found = record.WhichOneof("kind")
        if found != expected:
            raise _refused(path, number, f"expected a record of kind {expected}, found {found or 'one without a kind'}")
        if not keep_vectors:
            record.ClearField("embedding")
        # So that the same line is the same record, however often it is read.
        record.id = record.id or hashlib.sha256(line.strip()).hexdigest()[:32]
        yield Entry(record, number, position)


def _read_line(path: Path | str, source: IO[bytes], number: int) -> bytes:
    line = source.readline(_MAX_LINE_BYTES + 1)
    if len(line) > _MAX_LINE_BYTES:
        raise _refused(path, number, f"longer than {_MAX_LINE_BYTES:,} bytes")
    return line


def _object(line: bytes) -> dict[str, Any]:
    """The JSON object on a line. Raises ValueError with what is wrong."""
    try:
        given = json.loads(line.decode().strip())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte {error.start + 1} of the line cannot be read") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg}, at character {error.pos + 1} of the line") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(given, dict):
        raise ValueError("expected an object")
    return given


def _refused(path: Path | str, line: int, why: str) -> DocumentError:
    return DocumentError(path, [Problem("", why, line)])
