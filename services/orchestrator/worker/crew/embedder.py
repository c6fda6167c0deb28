"""Embeddings, made by the models service."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.orchestrator.worker.crew.session import TaskRun

Embedder = Callable[[Sequence[str]], list[list[float]]]

_BATCH = 256


def embed(run: "TaskRun", model: str, texts: Sequence[str]) -> list[list[float]]:
    """Return a vector of unit length for each text; `model` empty means the installation's default.

    Raises:
        HookAborted: the task has to end.
        RemoteError: embedding failed in a way that may pass.
    """
    vectors: list[list[float]] = []
    for start in range(0, len(texts), _BATCH):
        vectors += run.call("embed", {"model": model, "texts": list(texts[start : start + _BATCH])})["vectors"]
    return vectors


def embedder(run: "TaskRun", model: str) -> Embedder:
    """Return the function CrewAI's memory embeds with."""

    def embed_texts(texts: Sequence[str]) -> list[list[float]]:
        return embed(run, model, texts)

    return embed_texts
