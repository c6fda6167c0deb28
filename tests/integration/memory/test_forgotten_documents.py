"""Forgetting a person while others save the documents that were the person's."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from coxswain.memory.v1 import document_pb2 as pb
from coxswain.memory.v1 import memory_pb2
from services.memory.stores.databricks.store import DatabricksMemoryStore
from services.memory.usecases.document_parts import DocumentParts
from services.memory.usecases.document_subjects import DocumentSubjects
from tests.integration.memory.documents import documents_stub, parts, save
from tests.integration.memory.support import stub
from tests.support.harness import Harness

OLD = "The keeper lights the lamp at dusk and trims the wick. " * 12
NEW = "Boats are tied to the northern pier with two ropes each. " * 12


def _once_before(patched: pytest.MonkeyPatch, method: str, happens: Callable[[], Awaitable[Any]]) -> None:
    """Let something happen once, the moment before a step of forgetting."""
    owner: Any = DocumentParts if method == "remove" else DocumentSubjects
    step = getattr(owner, method)
    done: list[int] = []

    async def after(self: Any, *given: Any, **named: Any) -> Any:
        if not done:
            done.append(1)
            await happens()
        return await step(self, *given, **named)

    patched.setattr(owner, method, after)


async def _forget(harness: Harness) -> tuple[int, int]:
    request = memory_pb2.ForgetSubjectRequest(subject="dev|ann")
    forgotten = await stub(harness.channel("dev:root:sales=admin")).ForgetSubject(request)
    assert not any(one.problem for one in forgotten.namespaces)
    return forgotten.removed, forgotten.kept


@pytest.mark.parametrize(
    ("store", "step"),
    [
        *((store, "_forget_document") for store in ("sqlite", "postgresql", "chroma", "databricks", "pgvector")),
        # What is removed in steps is not locked meanwhile.
        *((store, "remove") for store in ("sqlite", "postgresql", "pgvector")),
    ],
    indirect=["store"],
)
@pytest.mark.parametrize("text", [OLD, NEW])
async def test_a_document_that_others_save_meanwhile_stays(
    everywhere: Harness, monkeypatch: pytest.MonkeyPatch, step: str, text: str
) -> None:
    ann, ben = (everywhere.channel(f"dev:{name}:sales=operator") for name in ("ann", "ben"))
    first = await save(ann, OLD, id="manual", chunk_characters=200)
    await save(ann, OLD, id="of-ann", chunk_characters=200)
    _once_before(monkeypatch, step, lambda: save(ben, text, id="manual", chunk_characters=200))
    count = first.document.part_count
    assert await _forget(everywhere) == (count, count if text is OLD else 0)
    document = (await documents_stub(ben).GetDocument(pb.GetDocumentRequest(id="manual"))).document
    assert document.revision == (1 if text is OLD else 2)
    left = await parts(ben, "manual")
    assert [part.document.document_revision for part in left] == [document.revision] * document.part_count
    assert await parts(ben, "of-ann") == []
    monkeypatch.undo()
    assert await _forget(everywhere) == (0, 0)


async def test_parts_that_were_replaced_meanwhile_do_not_come_back(
    everywhere: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, ben = (everywhere.channel(f"dev:{name}:sales=operator") for name in ("ann", "ben"))
    await save(ann, OLD, id="manual", chunk_characters=200)
    assert (await save(ben, OLD, id="manual", chunk_characters=200)).unchanged
    _once_before(monkeypatch, "_save_again", lambda: save(ben, NEW, id="manual", chunk_characters=200))
    assert await _forget(everywhere) == (0, 0)
    document = (await documents_stub(ben).GetDocument(pb.GetDocumentRequest(id="manual"))).document
    left = await parts(ben, "manual")
    assert [part.document.document_revision for part in left] == [2] * document.part_count
    assert all("Boats" in part.document.content for part in left)


# Other stores compare the revision that a save expects.
@pytest.mark.parametrize("store", ["databricks"], indirect=True)
async def test_parts_saved_after_a_replacement_are_removed_again(
    everywhere: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, ben = (everywhere.channel(f"dev:{name}:sales=operator") for name in ("ann", "ben"))
    await save(ann, OLD, id="manual", chunk_characters=200)
    await save(ben, OLD, id="manual", chunk_characters=200)
    write = DatabricksMemoryStore.save
    seen: list[int] = []

    async def replaced_before(*given: Any, **named: Any) -> Any:
        seen.append(1)
        if len(seen) == 1:
            await save(ben, NEW, id="manual", chunk_characters=200)
        return await write(*given, **named)

    monkeypatch.setattr(DatabricksMemoryStore, "save", replaced_before)
    assert await _forget(everywhere) == (0, 0)
    assert {part.document.document_revision for part in await parts(ben, "manual")} == {2}
