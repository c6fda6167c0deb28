"""Embeddings, made by the models service."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.orchestrator.worker.crew.attempt import TaskAttempt

Embedder = Callable[[Sequence[str]], list[list[float]]]

_BATCH = 256


def embed(attempt: "TaskAttempt", model: str, texts: Sequence[str]) -> list[list[float]]:
    """Return a vector of unit length for each text; `model` empty means the installation's default.

    Raises:
        HookAborted: the task has to end.
        TaskError: embedding failed in a way that may pass.
    """
    vectors: list[list[float]] = []
    for start in range(0, len(texts), _BATCH):
        vectors += attempt.host.embed(model, texts[start : start + _BATCH])
    return vectors


def embedder(attempt: "TaskAttempt", model: str) -> Embedder:
    """Return the function CrewAI's memory embeds with."""

    def embed_texts(texts: Sequence[str]) -> list[list[float]]:
        return embed(attempt, model, texts)

    return embed_texts
