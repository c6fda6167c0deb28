"""Documents as clients send them."""

from collections.abc import Iterator, Sequence
from typing import Any

import grpc

from coxswain.memory.v1 import document_pb2 as pb
from coxswain.memory.v1 import document_service_pb2_grpc, memory_pb2, record_pb2
from tests.integration.memory.support import place, stub

DOCUMENTS = record_pb2.MEMORY_KIND_DOCUMENT
SENT_AT_ONCE = 64 * 1024


def documents_stub(channel: grpc.aio.Channel) -> Any:
    """Return the untyped stub of DocumentService."""
    return document_service_pb2_grpc.DocumentServiceStub(channel)


def upload(content: bytes, **header: Any) -> Iterator[pb.SaveDocumentRequest]:
    """Return the requests that save a file."""
    yield pb.SaveDocumentRequest(header=pb.DocumentHeader(**header))
    for start in range(0, len(content), SENT_AT_ONCE):
        yield pb.SaveDocumentRequest(chunk=content[start : start + SENT_AT_ONCE])


async def save(channel: grpc.aio.Channel, content: bytes | str, **header: Any) -> pb.SaveDocumentResponse:
    """Save a file and return the last response."""
    return (await responses(channel, content, **header))[-1]


async def responses(
    channel: grpc.aio.Channel, content: bytes | str, **header: Any
) -> Sequence[pb.SaveDocumentResponse]:
    """Save a file and return all responses."""
    data = content.encode() if isinstance(content, str) else content
    return [response async for response in documents_stub(channel).SaveDocument(upload(data, **header))]


async def parts(channel: grpc.aio.Channel, document_id: str) -> list[record_pb2.Record]:
    """Return the parts of a document in order."""
    request = memory_pb2.ListRecordsRequest(namespace=place("", DOCUMENTS), filter=of(document_id), page_size=1000)
    found = (await stub(channel).ListRecords(request)).records
    return sorted(found, key=lambda record: int(record.document.chunk_index))


async def search(channel: grpc.aio.Channel, text: str, *ids: str, limit: int = 3) -> list[record_pb2.Record]:
    """Return the parts nearest to a text, of some documents or of all."""
    chosen = of(*ids) if ids else None
    request = memory_pb2.SearchRecordsRequest(namespace=place("", DOCUMENTS), text=text, filter=chosen, limit=limit)
    return [result.record for result in (await stub(channel).SearchRecords(request)).results]


def of(*ids: str) -> memory_pb2.RecordFilter:
    """Return the filter of the parts of documents."""
    values = [record_pb2.ConditionValue(text=one) for one in ids]
    return memory_pb2.RecordFilter(conditions=[record_pb2.Condition(column="parent_document_id", values=values)])
