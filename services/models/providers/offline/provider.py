"""The provider that needs no network, account or key."""

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from services.common.errors import FailedPrecondition, InvalidArgument
from services.models.domain.answer import Answer, Delta, Embeddings, FinishDelta, FinishReason, TextDelta, UsageDelta
from services.models.domain.conversation import Completion, Message
from services.models.domain.model import Model
from services.models.domain.usage import Usage
from services.models.providers.base import MayCall, TakeBatch, TokenCount
from services.models.providers.offline.embedder import DIMENSION, PackagedEmbedder
from services.models.providers.offline.extract import extract, requested_length
from services.models.providers.offline.prompt import read_prompt

P = ParamSpec("P")
T = TypeVar("T")

EXTRACT = "extract"
EMBED = "embed"
UPSTREAM_MODELS = frozenset({EXTRACT, EMBED})
"""What a model of this provider may name as its upstream model."""

# Two long texts at once; more would only take turns.
_THREADS = 2
# One sentence a paragraph, so that a model that gets the answer as material finds the sentences again.
_SEPARATOR = "\n\n"


class OfflineProvider:
    """Answers with sentences of the prompt's own material, and embeds with the packaged model.

    It knows nothing, makes nothing up and calls no tools: what it says is true of the material, word for word.
    """

    def __init__(self, embedder: PackagedEmbedder) -> None:
        self._embedder = embedder
        # Threads of its own: the loop's are needed to look up names while long texts are worked on.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="offline-model")

    async def complete(self, model: Model, completion: Completion, _answer_by: float | None = None, /) -> Answer:
        """Return the sentences that say most of the material; nothing has to be waited for."""
        parts, finish, usage = await self._work(self._answer, model, completion)
        return Answer(
            text="".join(parts),
            reasoning="",
            tool_calls=(),
            finish_reason=finish,
            usage=usage,
            upstream_model=model.spec.upstream_name,
        )

    async def stream(
        self, model: Model, completion: Completion, _answer_by: float | None = None, /
    ) -> AsyncGenerator[Delta, None]:
        """Yield the same answer, a sentence at a time."""
        parts, finish, usage = await self._work(self._answer, model, completion)
        for part in parts:
            yield TextDelta(part)
        yield UsageDelta(usage)
        yield FinishDelta(finish, model.spec.upstream_name)

    async def embed(self, model: Model, texts: Sequence[str], dimensions: int, take: TakeBatch) -> None:
        """Make the packaged model's vectors, in one batch.

        Raises:
            FailedPrecondition: the model is not the one that embeds.
            InvalidArgument: a text has nothing that can be embedded, or other `dimensions` are asked for than its own.
        """
        _check_upstream_model(model, EMBED)
        if dimensions not in (0, DIMENSION):
            raise InvalidArgument.field(
                "dimensions",
                f'must be {DIMENSION} or left out: "{model.name}" makes vectors of {DIMENSION} components only',
            )
        vectors, tokens = await self._work(self._embedder.embed, texts)
        take(range(len(texts)), Embeddings(vectors, Usage(input_tokens=tokens)))

    async def count_tokens(self, _model: Model, messages: Sequence[Message], _may_call: MayCall, /) -> TokenCount:
        """Return the count of the packaged tokenizer, which is the one these models are measured with."""
        tokens = await self._work(self._embedder.count_tokens, [message.text for message in messages])
        return TokenCount(tokens, exact=True)

    def destination(self, _model: Model) -> None:
        """Return nothing: no call leaves this process."""

    async def close(self) -> None:
        """Cancel the work that has not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _work(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Do blocking work in a thread."""
        call = functools.partial(work, *arguments, **named)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _answer(self, model: Model, completion: Completion) -> tuple[list[str], FinishReason, Usage]:
        _check_upstream_model(model, EXTRACT)
        prompt_tokens = self._embedder.count_tokens([message.text for message in completion.messages])
        window = model.spec.context_window
        if window and prompt_tokens > window:
            raise InvalidArgument(
                f'the prompt has {prompt_tokens} tokens and "{model.name}" takes {window}; shorten it',
                reason="CONTEXT_WINDOW_EXCEEDED",
                metadata={"model": model.name, "context_window": str(window)},
            )
        prompt = read_prompt(completion.messages)
        sentences = extract(
            self._embedder, prompt.material, prompt.task, requested_length(prompt.criteria, prompt.task)
        )
        if not sentences:
            raise InvalidArgument.field(
                "completion.messages",
                f'"{model.name}" answers with sentences of a given text, and this request has none; give the crew an '
                "input with the text, or give the task an earlier task as context; in calls of your own send the text "
                "as material; or choose a model that writes text",
            )
        parts = [sentence if index == 0 else _SEPARATOR + sentence for index, sentence in enumerate(sentences)]
        parts = _stop_at(parts, completion.sampling.stop)
        parts, tokens, finish = self._within(parts, completion.sampling.max_output_tokens)
        return parts, finish, Usage(input_tokens=prompt_tokens, output_tokens=tokens)

    def _within(self, parts: list[str], limit: int | None) -> tuple[list[str], int, FinishReason]:
        """Keep whole sentences as far as the limit of tokens allows, but always one."""
        kept: list[str] = []
        total = 0
        for part, tokens in zip(parts, self._embedder.count_each(parts), strict=True):
            if limit is not None and kept and total + tokens > limit:
                return kept, total, FinishReason.LENGTH
            total += tokens
            kept.append(part)
        return kept, total, FinishReason.STOP


def _check_upstream_model(model: Model, wanted: str) -> None:
    if model.spec.upstream_name != wanted:
        raise FailedPrecondition(
            f'"{model.name}" is configured as offline model "{model.spec.upstream_name}"; for this call its '
            f'upstream_model has to be "{wanted}"',
            reason="MODEL_LACKS_CAPABILITY",
            metadata={"model": model.name, "capability": "chat" if wanted == EXTRACT else "embeddings"},
        )


def _stop_at(parts: list[str], marks: Sequence[str]) -> list[str]:
    text = "".join(parts)
    ends = [position for mark in marks if mark and (position := text.find(mark)) >= 0]
    if not ends:
        return parts
    kept: list[str] = []
    left = min(ends)
    for part in parts:
        if left <= 0:
            break
        kept.append(part[:left])
        left -= len(part)
    return kept
