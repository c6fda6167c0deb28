"""`coxswain.memory.v1.DocumentService` at the edge."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from coxswain.memory.v1 import document_pb2 as pb
from coxswain.memory.v1 import document_service_pb2_grpc
from services.common.errors import InvalidArgument
from services.common.grpc.call import current_principal
from services.common.grpc.handler import Context
from services.memory.servicers.messages.documents import document_to_proto, progress_to_proto, upload_from_proto
from services.memory.usecases.documents import Documents


class DocumentServicer(document_service_pb2_grpc.DocumentServiceServicer):
    """Documents of groups: saved, listed and removed as a whole."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def SaveDocument(
        self, requests: AsyncIterator[pb.SaveDocumentRequest], context: Context
    ) -> AsyncIterator[pb.SaveDocumentResponse]:
        """See the proto."""
        first = await anext(requests, None)
        if first is None or not first.HasField("header"):
            raise InvalidArgument.field("header", "is missing: the first message says what the document is")
        upload = upload_from_proto(first.header)
        # Closed with the call: what a save holds must not wait for the garbage collector.
        async with aclosing(self._documents.save(current_principal(), upload, _chunks(requests))) as saving:
            async for progress in saving:
                yield progress_to_proto(progress)

    async def GetDocument(self, request: pb.GetDocumentRequest, context: Context) -> pb.GetDocumentResponse:
        """See the proto."""
        document = await self._documents.get(current_principal(), request.id)
        return pb.GetDocumentResponse(document=document_to_proto(document))

    async def ListDocuments(self, request: pb.ListDocumentsRequest, context: Context) -> pb.ListDocumentsResponse:
        """See the proto."""
        page = await self._documents.page(current_principal(), request.page_size, request.page_token)
        return pb.ListDocumentsResponse(
            documents=[document_to_proto(document) for document in page.items], next_page_token=page.next_page_token
        )

    async def DeleteDocument(self, request: pb.DeleteDocumentRequest, context: Context) -> pb.DeleteDocumentResponse:
        """See the proto."""
        return pb.DeleteDocumentResponse(deleted_parts=await self._documents.delete(current_principal(), request.id))


async def _chunks(requests: AsyncIterator[pb.SaveDocumentRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.HasField("header"):
            raise InvalidArgument.field("header", "was sent already; save another document with another call")
        yield request.chunk
