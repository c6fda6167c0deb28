"""What every way to reach a model offers."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.models.domain.answer import Answer, Delta, Embeddings
from services.models.domain.conversation import Completion, Message
from services.models.domain.model import Model


@dataclass(frozen=True, slots=True)
class TokenCount:
    """How many tokens a conversation has."""

    tokens: int
    exact: bool
    """Whether the model's own tokenizer counted them."""


class ModelProvider(Protocol):
    """Calls models of one provider. Failures are `CoxswainError`s that name the model and carry no secret.

    The model can do what is asked of it and has been checked to be enabled. All methods end when they are cancelled,
    and the call upstream with them.
    """

    async def complete(self, model: Model, completion: Completion, answer_by: float | None = None, /) -> Answer:
        """Return the whole answer.

        `answer_by` says, by the event loop's clock, when another model takes over unless this one has begun to answer;
        None means that there is no other.
        """
        ...

    def stream(
        self, model: Model, completion: Completion, answer_by: float | None = None, /
    ) -> AsyncGenerator[Delta, None]:
        """Yield the answer as it comes: text, reasoning and tool calls, then usage if there is any, then the finish.

        See `complete` about `answer_by`.
        """
        ...

    async def embed(self, model: Model, texts: Sequence[str]) -> Embeddings:
        """Return a unit-length vector for each text."""
        ...

    async def count_tokens(self, _model: Model, messages: Sequence[Message], /) -> TokenCount:
        """Return how many tokens a conversation has on the model."""
        ...

    async def close(self) -> None:
        """Release connections and processes."""
        ...
