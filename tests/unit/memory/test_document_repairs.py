"""Repairs of documents by the sweep."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.common.errors import Unavailable
from services.memory.domain.namespaces import NamespaceKey
from services.memory.repositories.documents import DocumentRow
from services.memory.stores.base import MemoryStore
from services.memory.usecases import document_repairs
from services.memory.usecases.document_repairs import DocumentRepairs


class Repairs(DocumentRepairs):
    """Repairs all but the documents of one group."""

    def __init__(self) -> None:
        database: Any = self
        nothing: Any = None
        super().__init__(database, nothing, nothing)
        self.repaired: list[str] = []

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[None]:
        yield None

    async def _repair_due(self, store: MemoryStore, key: NamespaceKey, row: DocumentRow) -> None:
        if key.group_id == "broken":
            raise Unavailable("its directory cannot be read")
        self.repaired.append(key.group_id)


async def test_a_document_that_cannot_be_repaired_keeps_no_other_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def due(*_: object) -> list[tuple[str, None]]:
        return [("broken", None), ("sales", None), ("broken", None), ("ops", None)]

    monkeypatch.setattr(document_repairs, "due_here", due)
    repairs = Repairs()
    default: Any = None
    with pytest.raises(Unavailable, match="directory"):
        await repairs.sweep(default)
    assert repairs.repaired == ["sales", "ops"]
