"""A file as the requests that save it as a document."""

from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from coxswain.memory.v1.document_pb2 import DocumentHeader, SaveDocumentRequest

_CHUNK_BYTES = 256 * 1024


def document_requests(
    file: str | PathLike[str] | bytes, header: DocumentHeader | None
) -> Iterator[SaveDocumentRequest]:
    """The header, with the file's name and size where it says none, and then the file's bytes in order.

    Raises OSError, before anything is sent, when the file cannot be read.
    """
    said = DocumentHeader()
    if header is not None:
        said.CopyFrom(header)
    if isinstance(file, bytes):
        said.expected_bytes = said.expected_bytes or len(file)
        return _requests(said, (file[start : start + _CHUNK_BYTES] for start in range(0, len(file), _CHUNK_BYTES)))
    path = Path(file)
    said.file_name = said.file_name or path.name
    said.expected_bytes = said.expected_bytes or path.stat().st_size
    path.open("rb").close()
    return _requests(said, _chunks(path))


def _requests(header: DocumentHeader, chunks: Iterator[bytes]) -> Iterator[SaveDocumentRequest]:
    yield SaveDocumentRequest(header=header)
    for chunk in chunks:
        yield SaveDocumentRequest(chunk=chunk)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK_BYTES):
            yield chunk
