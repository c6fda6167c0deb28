"""CrewAI's store of files is left out: nothing is found in it, and no event loop is made to look."""

import asyncio
from uuid import uuid4

import pytest
from crewai.utilities import file_store

from services.orchestrator.worker.crew.no_files import leave_out_files


@pytest.fixture(autouse=True)
def left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_file_store", "_run_sync"):
        monkeypatch.setattr(file_store, name, getattr(file_store, name))
    leave_out_files()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an event loop was made")

    monkeypatch.setattr(asyncio, "new_event_loop", refuse)


def test_nothing_is_found() -> None:
    assert file_store.get_all_files(uuid4(), uuid4()) is None
    assert file_store.get_files(uuid4()) is None
    file_store.clear_files(uuid4())
    file_store.clear_task_files(uuid4())


def test_what_waits_is_refused() -> None:
    with pytest.raises(RuntimeError, match="waits"):
        file_store._run_sync(asyncio.sleep(0))
