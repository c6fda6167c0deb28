"""Answers that have to follow a schema: their check, and one attempt to have them corrected."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from services.common.errors import CoxswainError, FailedPrecondition
from services.common.schema_checks.checker import MAX_CHARACTERS, SchemaChecker
from services.models.domain.answer import Answer, FinishReason
from services.models.domain.conversation import Completion, ContentPart, Message, MessageRole
from services.models.domain.model import Model
from services.models.domain.usage import Usage

# What the checker says of itself, in words for callers; all else is the name of an error that a schema caused.
_UNCHECKED = {"length": "length", "time": "time", "queue": "busy", "process": "busy"}
_CUT_OFF = "the answer: was cut off or calls tools"
_NOT_ALONE = "the answer: has to be JSON alone, without a code fence or thoughts"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the check of a text that has been passed on says."""

    violations: tuple[str, ...] = ()
    """What of it does not follow its schema."""
    unchecked: str = ""
    """Why it was not checked; empty when it was."""


class StructuredOutput:
    """Holds answers to the schema that their call asks for."""

    def __init__(self, checker: SchemaChecker) -> None:
        self._checker = checker

    def prepare(self, completion: Completion) -> None:
        """Get ready to check the answer to a call."""
        if completion.response_format is not None:
            self._checker.prepare()

    async def settle(
        self,
        group_id: str,
        model: Model,
        completion: Completion,
        answer: Answer,
        again: Callable[[Completion], Awaitable[Answer]],
    ) -> Answer:
        """Return an answer that follows the schema: this one, or the one to a second call that shows what is wrong.

        `again` makes that call. Usage is that of both. Answers that refuse, call tools or were cut off are returned as
        they are.

        Raises:
            FailedPrecondition: SCHEMA_NOT_FOLLOWED, the second answer does not follow it either, or did not come.
        """
        asked = completion.response_format
        if asked is None or answer.finish_reason is not FinishReason.STOP or answer.tool_calls:
            return answer
        found = await self._checker.check(group_id, asked.schema, answer.text)
        if not found.violations:
            return replace(
                answer,
                text=found.text,
                reasoning=answer.reasoning + found.thoughts,
                schema_unchecked=_word(found.unchecked),
            )
        try:
            second = await again(_correction(completion, answer.text, found.violations))
        except CoxswainError as error:
            failed = f"the call to have it corrected failed: {error.message}"
            raise _not_followed(model, found.violations, failed) from error
        if second.finish_reason is not FinishReason.STOP or second.tool_calls:
            raise _not_followed(model, (_CUT_OFF,), "nor does its correction")
        found = await self._checker.check(group_id, asked.schema, second.text)
        if found.violations:
            raise _not_followed(model, found.violations, "nor does its correction")
        return replace(
            second,
            text=found.text,
            reasoning=second.reasoning + found.thoughts,
            usage=_sum(answer.usage, second.usage),
            schema_unchecked=_word(found.unchecked),
        )

    async def judge(self, group_id: str, completion: Completion, text: "StreamedText") -> Verdict:
        """Return what is to be said of a text that has been passed on already: it cannot be corrected any more."""
        asked, whole = completion.response_format, text.whole()
        if asked is None:
            return Verdict()
        if whole is None:
            return Verdict(unchecked="length")
        found = await self._checker.check(group_id, asked.schema, whole)
        violations = found.violations or ((_NOT_ALONE,) if found.text != whole else ())
        return Verdict(violations, _word(found.unchecked))


class StreamedText:
    """Keeps the text of a stream for a check at its end, as long as it is not too long for one."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0

    def add(self, piece: str) -> None:
        """Add what comes next."""
        self._length += len(piece)
        if self._length <= MAX_CHARACTERS:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    def whole(self) -> str | None:
        """Return all of it; None when it became too long."""
        return "".join(self._pieces) if self._length <= MAX_CHARACTERS else None


def _word(unchecked: str) -> str:
    return _UNCHECKED.get(unchecked, "schema") if unchecked else ""


def _correction(completion: Completion, answer: str, violations: Sequence[str]) -> Completion:
    """Return the call that shows a model its answer and what is wrong with it."""
    listed = "\n".join(f"- {violation}" for violation in violations)
    request = (
        f"Your answer does not follow the JSON schema that was asked for:\n{listed}\n"
        "Give the whole answer once more, as JSON that follows the schema, with nothing before or after it."
    )
    return replace(
        completion,
        messages=(
            *completion.messages,
            Message(MessageRole.ASSISTANT, (ContentPart(answer or "(empty)"),)),
            Message(MessageRole.USER, (ContentPart(request),)),
        ),
        # What is due now is the answer.
        tool_choice="none" if completion.tools else completion.tool_choice,
    )


def _not_followed(model: Model, violations: Sequence[str], more: str) -> FailedPrecondition:
    listed = "; ".join(violations)
    return FailedPrecondition(
        f'the answer of "{model.name}" does not follow the schema, {more} ({listed}); make the schema simpler or '
        "choose another model",
        reason="SCHEMA_NOT_FOLLOWED",
        metadata={"model": model.name, "violations": listed},
    )


def _sum(first: Usage | None, second: Usage | None) -> Usage | None:
    if first is None or second is None:
        return first or second
    return Usage(
        input_tokens=first.input_tokens + second.input_tokens,
        output_tokens=first.output_tokens + second.output_tokens,
        reasoning_tokens=first.reasoning_tokens + second.reasoning_tokens,
        cached_input_tokens=first.cached_input_tokens + second.cached_input_tokens,
        cache_write_input_tokens=first.cache_write_input_tokens + second.cache_write_input_tokens,
        cost=first.cost + second.cost,
        estimated=first.estimated or second.estimated,
    )
