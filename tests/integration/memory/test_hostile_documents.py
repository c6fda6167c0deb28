"""Files that are made to take all time or memory cost their own call alone, which says what to do."""

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from pypdf import PdfReader, PdfWriter

from coxswain.memory.v1 import document_pb2 as pb
from services.memory.embedding import ModelsEmbedder
from services.memory.parsing.media_types import DOCX
from services.memory.settings import MemorySettings
from tests.integration.auth.support import refused
from tests.integration.memory.documents import documents_stub, parts, save, upload
from tests.integration.memory.support import serve_memory
from tests.support.harness import BOB, Harness
from tests.support.pdf_files import pdf_of

W = b"http://schemas.openxmlformats.org/wordprocessingml/2006/main"
INVALID, UNREADABLE = grpc.StatusCode.INVALID_ARGUMENT, "DOCUMENT_UNREADABLE"
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncIterator[Harness]:
    settings = MemorySettings(document_read_seconds=2, document_bytes=8 * 1024 * 1024, document_saves_per_group=1)
    async with serve_memory(tmp_path, settings=settings) as (harness, _):
        yield harness


def word_document(body: bytes, head: bytes = b"") -> bytes:
    from docx import Document

    made, file = io.BytesIO(), io.BytesIO()
    Document().save(made)
    with zipfile.ZipFile(made) as source, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename == "word/document.xml":
                data = head + b'<w:document xmlns:w="' + W + b'"><w:body>' + body + b"</w:body></w:document>"
            target.writestr(entry.filename, data)
    return file.getvalue()


def laughing() -> bytes:
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10 if n else "lol"}">' for n in range(12))
    head = b'<?xml version="1.0"?><!DOCTYPE r [' + entities.encode() + b"]>"
    return word_document(b"<w:p><w:r><w:t>&a11;</w:t></w:r></w:p>", head)


def endless_pdf() -> bytes:
    """A tree of pages that is its own child."""
    return pdf_of("x").replace(b"/Count 1", b"/Count 9").replace(b"/Kids [4 0 R]", b"/Kids [2 0 R]")


def locked_pdf() -> bytes:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf_of("secret"))))
    writer.encrypt("password", algorithm="RC4-128")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


async def test_hostile_files_cost_their_own_call_alone(strict: Harness) -> None:
    channel = strict.channel()
    hostile = {
        "bomb.docx": word_document(b"<w:p><w:r><w:t>" + b"a" * 140_000_000 + b"</w:t></w:r></w:p>"),
        "laughs.docx": laughing(),
        "deep.docx": word_document(b"<w:tbl><w:tr><w:tc>" * 20_000),
        "loop.pdf": endless_pdf(),
        "locked.pdf": locked_pdf(),
        "deep.html": b"<div>" * 400_000 + b"x",
        "cell.csv": b"a,b\n1," + b'"' + b"x" * 6_000_000,
        "other.pdf": b"PK\x03\x04 no PDF",
        "binary.txt": b"a\0b",
        "latin.txt": b"caf\xe9",
    }
    told = {}
    for name, content in hostile.items():
        with refused(INVALID, UNREADABLE) as refusal:
            await save(channel, content, file_name=name)
        assert refusal.fields == ["chunk"]
        assert refusal.metadata["media_type"]
        told[name] = refusal.message
        # The group and others go on.
        assert (await save(strict.channel(BOB), name, id="note")).document.part_count == 1
    assert "unpacks to" in told["bomb.docx"]
    assert "password" in told["locked.pdf"]
    assert "UTF-8" in told["latin.txt"]
    assert "media_type" in told["other.pdf"]
    assert "U+0000" in told["binary.txt"]


async def test_files_that_are_damaged_or_of_another_kind_are_refused_with_what_to_do(memory: Harness) -> None:
    pdf, word = pdf_of("one", "two"), word_document(b"<w:p><w:r><w:t>here</w:t></w:r></w:p>")
    packed = word.index(b"PK", 4) - 20
    hostile: dict[str, tuple[bytes, dict[str, Any], str]] = {
        "half a PDF file": (pdf[: len(pdf) // 2], {"file_name": "a.pdf"}, "save it as PDF anew"),
        "a PDF file's beginning": (pdf[:12], {"file_name": "a.pdf"}, "save it as PDF anew"),
        "a PDF file without pages": (b"%PDF-1.7\n%%EOF", {}, "save it as PDF anew"),
        "half a DOCX file": (word[: len(word) // 2], {"file_name": "a.docx"}, "save it as DOCX anew"),
        "spoilt contents": (word[:packed] + b"spoilt" + word[packed + 6 :], {"file_name": "a.docx"}, "anew"),
        "a line of 10 MB": (b"a,b\n1," + b"x" * 10_000_000, {"file_name": "a.csv"}, "divide it"),
        "a header of 10 MB": (b"head," * 2_000_000, {"media_type": "text/csv"}, "divide it"),
        "UTF-16 without a mark": ("a lamp".encode("utf-16-le"), {}, "charset=utf-16-le"),
        "half a character": ("a lamp".encode("utf-16")[:-1], {}, "name its real character set"),
        "a mark alone": (b"\xef\xbb\xbf", {}, "send a file that has some"),
        "a mark of UTF-16 alone": (b"\xff\xfe", {"file_name": "a.csv"}, "send a file that has some"),
        "spaces": (b" \n\t ", {"file_name": "a.md"}, "send a file that has some"),
        "an empty page": ("\ufeff".encode(), {"media_type": "text/html"}, "send a file that has some"),
        "a PDF file said to be text": (pdf, {"media_type": "text/plain"}, "correct media_type"),
        "text said to be a PDF file": (b"a lamp", {"media_type": "application/pdf"}, "correct media_type"),
        "a DOCX file said to be a PDF file": (word, {"media_type": "application/pdf"}, "correct media_type"),
        "an archive said to be a DOCX file": (b"PK\x05\x06" + bytes(18), {"media_type": DOCX}, "correct media_type"),
        "a picture": (b"\x89PNG\r\n", {"file_name": "a.png", "media_type": "image/png"}, "convert the file"),
        "a set of characters that is none": (b"a", {"media_type": "text/plain; charset=x-none"}, "name one such as"),
    }
    for name, (content, header, remedy) in hostile.items():
        with refused(INVALID, UNREADABLE) as refusal:
            await save(memory.channel(), content, id="document", **header)
        assert refusal.fields == ["chunk"], name
        assert remedy in refusal.message, name
        assert refusal.metadata["media_type"], name
    with refused(INVALID, "INVALID_FIELD") as empty:
        await save(memory.channel(), b"", id="document")
    assert empty.fields == ["chunk"]
    # Nothing of them is there.
    assert not (await documents_stub(memory.channel()).ListDocuments(pb.ListDocumentsRequest())).documents


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ending", ["txt", "csv", "html"])
async def test_texts_with_a_byte_order_mark_are_read_as_they_are_meant(
    memory: Harness, encoding: str, ending: str
) -> None:
    text = "lämp;wick\n日本;2" if ending == "csv" else "lämp 日本"
    await save(memory.channel(), text.encode(encoding), id="marked", file_name=f"marked.{ending}")
    [part] = await parts(memory.channel(), "marked")
    assert part.document.content.split("\n") == text.split("\n")


async def test_a_book_of_10_000_pages_costs_its_own_call_alone(strict: Harness) -> None:
    book = pdf_of(*["lamp"] * 10_000)
    with refused(INVALID, UNREADABLE) as refusal:
        await save(strict.channel(), book, id="book")
    assert "divide it" in refusal.message
    assert (await save(strict.channel(), pdf_of("lamp", "wick"), id="leaf")).document.page_count == 2


async def test_what_is_read_of_word_files_stays_in_them(strict: Harness) -> None:
    outside = b'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    file = word_document(b"<w:p><w:r><w:t>here &a;</w:t></w:r></w:p>", outside)
    saved = await save(strict.channel(), file, id="x", media_type=DOCX)
    assert saved.document.character_count == len("here")


async def test_too_much_is_refused_while_it_comes(strict: Harness) -> None:
    channel = strict.channel()
    with refused(INVALID, "INVALID_FIELD") as refusal:
        await save(channel, b"x" * (8 * 1024 * 1024 + 1), id="large")
    assert "COXSWAIN_MEMORY_DOCUMENT_BYTES" in refusal.message
    stream = documents_stub(channel).SaveDocument()
    first, *_ = upload(b"", id="slow")
    await stream.write(first)
    for request in list(upload(b"x" * 512 * 1024, id="slow"))[1:]:
        await stream.write(request)
    # It has begun, and has a place of the group.
    assert (await stream.read()).received_bytes
    with refused(UNAVAILABLE, "OVERLOADED") as crowded:
        await save(channel, b"x", id="second")
    assert crowded.retry_seconds
    stream.cancel()


async def test_a_save_has_its_place_until_it_is_stored(strict: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    embeds, goes_on = asyncio.Event(), asyncio.Event()
    embed = ModelsEmbedder.embed

    async def late(*given: Any) -> Any:
        embeds.set()
        await goes_on.wait()
        return await embed(*given)

    monkeypatch.setattr(ModelsEmbedder, "embed", late)
    channel = strict.channel()
    first = asyncio.ensure_future(save(channel, "The first.", id="first"))
    await embeds.wait()
    with refused(UNAVAILABLE, "OVERLOADED"):
        await save(channel, "The second.", id="second")
    goes_on.set()
    await first
    assert (await save(channel, "The second.", id="second")).document.part_count == 1


async def test_empty_chunks_are_refused(strict: Harness) -> None:
    header, *_ = upload(b"", id="a")
    with refused(INVALID, "INVALID_FIELD") as refusal:
        async for _ in documents_stub(strict.channel()).SaveDocument(iter([header, pb.SaveDocumentRequest(chunk=b"")])):
            pass
    assert refusal.fields == ["chunk"]
