"""What every way to reach a model offers."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.common.identity.credentials import Destination
from services.models.domain.answer import Answer, Delta, Embeddings
from services.models.domain.conversation import Completion, Message
from services.models.domain.model import Model


@dataclass(frozen=True, slots=True)
class TokenCount:
    """How many tokens a conversation has."""

    tokens: int
    exact: bool
    """Whether the model's own tokenizer, or its provider's counter, counted them."""


MayCall = Callable[[], Awaitable[bool]]
"""Says whether the limits of the calling group allow another call."""
TakeBatch = Callable[[Sequence[int], Embeddings], None]
"""Takes the vectors of some of a call's texts, with the positions of these texts."""


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

    async def embed(self, model: Model, texts: Sequence[str], dimensions: int, take: TakeBatch) -> None:
        """Hand a unit-length vector for each text to `take`, batch by batch in any order.

        `dimensions` is the length of the vectors; 0 means the model's own. What was taken before a failure is good and
        has been used.
        """
        ...

    async def count_tokens(self, _model: Model, messages: Sequence[Message], _may_call: MayCall, /) -> TokenCount:
        """Return how many tokens a conversation has on the model; nobody is called unless `may_call` allows it."""
        ...

    def destination(self, _model: Model, /) -> Destination | None:
        """Return where calls of a model go; None when they stay in this process."""
        ...

    async def close(self) -> None:
        """Release connections and processes."""
        ...
