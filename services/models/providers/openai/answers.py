"""Answers of OpenAI's HTTP interface and its dialects, streamed or whole, as the deltas that callers get.

A whole answer is read as a stream of one event, so that both give the same text, reasoning and tool calls.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from services.common.errors import CoxswainError, DeadlineExceeded
from services.models.domain.answer import (
    Answer,
    Delta,
    FinishDelta,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    UsageDelta,
)
from services.models.domain.conversation import ToolCall
from services.models.domain.model import Model
from services.models.domain.usage import Usage
from services.models.providers.fault_reading import Fault, FaultKind, holds_fault, read_fault
from services.models.providers.lost_work import report_lost_work
from services.models.providers.openai.thinking import ThinkingReader
from services.models.providers.think_tags import ThinkTagSplitter
from services.models.providers.tool_call_assembly import ToolCallAssembler, read_piece
from services.models.providers.unicode_repair import JsonPieceRepair, PieceRepair, repair, repair_json
from services.models.providers.upstream_errors import bad_response, unavailable, upstream_failure
from services.models.providers.usage_reading import read_usage

T = TypeVar("T")


class BadResponse(Exception):
    """A response that cannot be read. The text is ours and quotes nothing of it."""


class AnswerFailed(Exception):
    """The upstream says that it failed, in the place of an answer or within one."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.kind)
        self.fault = fault


_FINISH: Mapping[str, FinishReason] = {
    **dict.fromkeys(
        ("stop", "end_turn", "stop_sequence", "eos", "eos_token", "end_of_text", "complete", "completed", "done"),
        FinishReason.STOP,
    ),
    **dict.fromkeys(
        ("length", "max_tokens", "max_output_tokens", "model_length", "max_length", "error_limit", "incomplete"),
        FinishReason.LENGTH,
    ),
    **dict.fromkeys(("tool_calls", "tool_call", "tool_use", "function_call"), FinishReason.TOOL_CALLS),
    **dict.fromkeys(
        (
            "content_filter",
            "content_filtered",
            "content-filter",
            "safety",
            "recitation",
            "prohibited_content",
            "blocklist",
            "spii",
            "image_safety",
            "refusal",
            "guardrail_intervened",
            "error_toxic",
            "sensitive",
        ),
        FinishReason.CONTENT_FILTER,
    ),
}
_FAILED_FINISHES = frozenset(
    {
        "error",
        "failed",
        "malformed_function_call",
        "unexpected_tool_call",
        "insufficient_system_resource",
        "network_error",
        "aborted",
    }
)
_PLAIN_FIELDS = frozenset({"role", "content"})
# Names of models are a few words; what is longer is not one.
_MAX_MODEL_NAME = 256
_REASONING_FIELDS = ("reasoning_content", "reasoning")
_REASONING_BLOCKS = frozenset({"reasoning", "thinking", "summary_text", "reasoning.text", "reasoning.summary"})


@dataclass(slots=True)
class AnswerReader:
    """Reads the events of one answer.

    Feed every document, then `finish`. What is fed may raise BadResponse or AnswerFailed.
    """

    split_thoughts: bool = True
    """Whether `<think>` at the beginning of the text marks reasoning."""
    thinking: ThinkingReader | None = None
    """Reads what the upstream wants back; None reads none of it."""
    usage: Usage | None = None
    """What the upstream has counted so far."""
    upstream_model: str = ""
    """The model that answers, by the upstream's name."""
    finish_reason: FinishReason | None = None
    """Set by `finish`."""
    begun: bool = False
    """Whether anything of an answer has come: it has been paid for."""
    _choice: int | None = None
    """Which of the answers is read, by the upstream's count: only one was asked for, and some send several."""
    _word: str | None = None
    _said: bool = False
    _thought: bool = False
    _called: bool = False
    _refusal: list[str] = field(default_factory=list)
    _calls: ToolCallAssembler = field(default_factory=ToolCallAssembler)
    _thoughts: ThinkTagSplitter = field(default_factory=ThinkTagSplitter)
    _text_repair: PieceRepair = field(default_factory=PieceRepair)
    _reasoning_repair: PieceRepair = field(default_factory=PieceRepair)
    _argument_repairs: dict[int, JsonPieceRepair] = field(default_factory=dict)

    def feed(self, document: Any) -> list[Delta]:
        """Return what one document adds to the answer.

        Raises:
            BadResponse: it is not an event of an answer.
            AnswerFailed: it is an error.
        """
        if document is None:
            # Some keep the connection alive with it.
            return []
        if not isinstance(document, dict):
            if holds_fault(document):
                raise AnswerFailed(read_fault(200, document))
            raise BadResponse("it is not a JSON object")
        if holds_fault(document):
            raise AnswerFailed(read_fault(200, document))
        if (usage := document.get("usage")) is not None:
            self.usage = read_usage(usage) or self.usage
        if (name := document.get("model")) and isinstance(name, str) and name != self.upstream_model:
            self.upstream_model = repair(name[:_MAX_MODEL_NAME])
        choice = self._choose(document.get("choices"))
        if choice is None:
            return []
        if "error" in choice and holds_fault({"error": choice["error"]}):
            raise AnswerFailed(read_fault(200, {"error": choice["error"]}))
        word = choice.get("finish_reason")
        if isinstance(word, str | int) and word not in ("", False):
            # Some send the number of their own reason, which is unknown here: the answer has ended.
            self._word = str(word)
        whole = choice.get("delta") is None
        message = choice.get("message" if whole else "delta")
        if message is None:
            return []
        if not isinstance(message, dict):
            raise BadResponse("its choice has no message")
        self.begun = True
        if whole:
            # Nothing follows, whether it says why it ended or not.
            self._word = self._word or ""
        return self._read(message, whole=whole)

    def _choose(self, choices: Any) -> Mapping[str, Any] | None:
        """Return the choice that is read; None for an event that counts tokens, names filters or is of another one."""
        if not choices:
            return None
        choice = choices[0] if isinstance(choices, list) else None
        if not isinstance(choice, dict):
            raise BadResponse("its choices are not objects")
        index = choice.get("index")
        if isinstance(index, int):
            if self._choice is None:
                self._choice = index
            elif index != self._choice:
                return None
        return choice

    def finish(self) -> list[Delta]:
        """Return what the end adds, and set `finish_reason`.

        Raises:
            BadResponse: the answer has no end, or ended without a valid answer.
            AnswerFailed: the upstream ended it with an error.
        """
        deltas: list[Delta] = []
        reasoning, text = self._thoughts.finish()
        self._say(deltas, reasoning + self._reasoning_repair.finish(), text + self._text_repair.finish())
        for number, pieces in self._argument_repairs.items():
            if rest := pieces.finish():
                deltas.append(ToolCallDelta(number, arguments_json=rest))
        deltas += self._calls.finish()
        if self.thinking is not None:
            deltas += self.thinking.finish()
        self._thought = self._thought or bool(deltas)
        word = (self._word or "").lower()
        if word in _FAILED_FINISHES:
            raise AnswerFailed(Fault(FaultKind.UNAVAILABLE, None, f"the answer ended with {self._word}"))
        if self._refusal and not self._said:
            deltas.append(TextDelta("".join(self._refusal)))
            self.finish_reason = FinishReason.CONTENT_FILTER
            return deltas
        reason = _FINISH.get(word, FinishReason.STOP)
        if reason in (FinishReason.STOP, FinishReason.TOOL_CALLS):
            # Some upstreams say "stop" beside tool calls, others "tool_calls" without one.
            reason = FinishReason.TOOL_CALLS if self._calls else FinishReason.STOP
        if not self._said and not self._calls:
            if word and word not in _FINISH:
                raise BadResponse("it is empty and ended for a reason that is not known")
            if self._called:
                raise BadResponse("a tool call does not name a function")
            if reason is FinishReason.STOP and not self._thought and not _counts(self.usage):
                # Models that choose to say nothing have read the prompt, and their providers count it. This is what is
                # left of an error, or of a stream, that somebody on the way did not understand.
                raise BadResponse("it is empty, and no token was counted for it")
        self.finish_reason = reason
        return deltas

    @property
    def ended(self) -> bool:
        """Whether the upstream has said why the answer ended."""
        return self._word is not None

    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Return the tool calls as a whole, once the answer has ended."""
        return tuple(
            ToolCall(repair(call.id), repair(call.name), repair_json(call.arguments_json), repair(call.provider_state))
            for call in self._calls.calls()
        )

    def _read(self, message: Mapping[str, Any], *, whole: bool) -> list[Delta]:
        if isinstance(content := message.get("content"), str) and _is_plain(message):
            return self._read_plain(content, message)
        text, thought = read_content(content)
        reasoning = self._reasoning_repair.feed(_reasoning(message) + thought)
        text = self._text_repair.feed(text)
        if self.split_thoughts and text:
            more, text = self._thoughts.feed(text)
            reasoning += more
        calls = message.get("tool_calls")
        deltas: list[Delta] = []
        self._say(deltas, reasoning, "")
        if self.thinking is not None:
            deltas += self.thinking.feed(message, follows=bool(text or calls))
        self._thought = self._thought or bool(deltas)
        self._say(deltas, "", text)
        if refusal := _string(message.get("refusal")):
            self._refusal.append(repair(refusal))
        if calls is not None and not isinstance(calls, list):
            raise BadResponse("its tool_calls are not a list")
        for position, call in enumerate(calls or ()):
            if not isinstance(call, dict):
                raise BadResponse("a tool call is not an object")
            deltas += self._call({**call, "index": position} if whole else call)
        # What the interface had before tool calls.
        function = message.get("function_call")
        if isinstance(function, dict):
            deltas += self._call({"index": 0, "function": function})
        return deltas

    def _read_plain(self, text: str, message: Mapping[str, Any]) -> list[Delta]:
        """Read a message of text alone, as most events of a stream are."""
        deltas: list[Delta] = []
        reasoning = ""
        text = self._text_repair.feed(text)
        if self.split_thoughts and text:
            reasoning, text = self._thoughts.feed(text)
            if reasoning:
                deltas.append(ReasoningDelta(reasoning))
        if self.thinking is not None and self.thinking.open:
            deltas += self.thinking.feed(message, follows=bool(text))
        if deltas:
            self._thought = True
        if text:
            self._said = True
            deltas.append(TextDelta(text))
        return deltas

    def _call(self, call: Mapping[str, Any]) -> list[Delta]:
        self._called = True
        repaired: list[Delta] = []
        for delta in self._calls.add(read_piece(call)):
            pieces = self._argument_repairs.setdefault(delta.index, JsonPieceRepair())
            arguments = pieces.feed(delta.arguments_json)
            # A piece may be held back until it can be read.
            if arguments or delta.name:
                repaired.append(
                    ToolCallDelta(
                        delta.index, repair(delta.id), repair(delta.name), arguments, repair(delta.provider_state)
                    )
                )
        return repaired

    def _say(self, deltas: list[Delta], reasoning: str, text: str) -> None:
        if reasoning:
            deltas.append(ReasoningDelta(reasoning))
        if text:
            self._said = True
            deltas.append(TextDelta(text))


def read_answer(document: Any, *, split_thoughts: bool = True, thinking: ThinkingReader | None = None) -> Answer:
    """Return the whole answer in a document; `thinking` reads what the upstream wants back.

    Raises:
        BadResponse: it holds none.
        AnswerFailed: it is an error.
    """
    reader = AnswerReader(split_thoughts, thinking)
    deltas = reader.feed(document)
    if not reader.begun:
        raise BadResponse("it has no choices")
    deltas += reader.finish()
    assert reader.finish_reason is not None
    return Answer(
        text="".join(delta.text for delta in deltas if isinstance(delta, TextDelta)),
        reasoning="".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta)),
        tool_calls=reader.tool_calls(),
        finish_reason=reader.finish_reason,
        usage=reader.usage,
        upstream_model=reader.upstream_model,
        thinking=tuple(delta.thinking for delta in deltas if isinstance(delta, ThinkingDelta)),
    )


def read(model: Model, reader: Callable[[Any], T], document: Any) -> T:
    """Return what `reader` makes of a response of the model's upstream.

    Raises:
        CoxswainError: the response cannot be read, or is an error.
    """
    try:
        return reader(document)
    except (BadResponse, AnswerFailed) as error:
        raise _failure(model, error) from error


def _failure(model: Model, error: BadResponse | AnswerFailed) -> CoxswainError:
    if isinstance(error, AnswerFailed):
        return upstream_failure(model, error.fault)
    return bad_response(model, str(error))


def read_document(model: Model, reader: Callable[[Any], T], document: Any) -> T:
    """Return what `reader` makes of a whole response; see `read`. One that is of no use is paid for too."""
    try:
        return read(model, reader, document)
    except CoxswainError:
        if isinstance(document, dict) and (usage := read_usage(document.get("usage"))) is not None:
            report_lost_work(model, usage)
        raise


def read_whole(model: Model, document: Any, *, split_thoughts: bool = True) -> Answer:
    """Return the whole answer of the model's upstream.

    Raises:
        CoxswainError: the document holds none, or an error.
    """

    def whole(body: Any) -> Answer:
        return read_answer(body, split_thoughts=split_thoughts, thinking=ThinkingReader(model))

    return read_document(model, whole, document)


async def read_stream(
    model: Model, batches: AsyncGenerator[Sequence[Any], None], *, split_thoughts: bool = True
) -> AsyncGenerator[Delta, None]:
    """Yield an answer as its events come: text, reasoning and tool calls, then usage if there is any, then the finish.

    `batches` are closed at its end. What events of one batch say is joined, as each delta is a message to the caller.

    Raises:
        CoxswainError: an event cannot be read or is an error, or the events end before the finish.
    """
    reader = AnswerReader(split_thoughts, ThinkingReader(model))
    heard = passed_on = False
    try:
        async with aclosing(batches):
            async for batch in batches:
                deltas: list[Delta] = []
                try:
                    for document in batch:
                        deltas += reader.feed(document)
                except (BadResponse, AnswerFailed) as error:
                    for delta in _joined(deltas):
                        passed_on = True
                        yield delta
                    raise _failure(model, error) from error
                heard = True
                for delta in _joined(deltas):
                    passed_on = True
                    yield delta
        if not reader.begun:
            raise bad_response(model, "it holds no answer")
        if not reader.ended:
            raise unavailable(model, "ended its stream before the answer was complete")
        for delta in read(model, lambda _: reader.finish(), None):
            passed_on = True
            yield delta
    except BaseException as error:
        # Whoever got a part of the answer knows that it began; nobody else does. An upstream that is given up while it
        # works has it paid for as well, though all that came was that it is at work.
        gave_up = not isinstance(error, CoxswainError) or isinstance(error, DeadlineExceeded)
        if (reader.begun or (heard and gave_up)) and not passed_on:
            report_lost_work(model, reader.usage)
        raise
    if reader.usage is not None:
        yield UsageDelta(reader.usage)
    assert reader.finish_reason is not None
    yield FinishDelta(reader.finish_reason, reader.upstream_model)


def _joined(deltas: list[Delta]) -> list[Delta]:
    """Return the same answer in as few deltas as possible."""
    if len(deltas) < 2:
        return deltas
    joined: list[Delta] = []
    for delta in deltas:
        match (joined[-1] if joined else None), delta:
            case TextDelta(before), TextDelta(after):
                joined[-1] = TextDelta(before + after)
            case ReasoningDelta(before), ReasoningDelta(after):
                joined[-1] = ReasoningDelta(before + after)
            case ToolCallDelta() as call, ToolCallDelta(index, "", "", after, "") if call.index == index:
                joined[-1] = replace(call, arguments_json=call.arguments_json + after)
            case _:
                joined.append(delta)
    return joined


def read_content(content: Any) -> tuple[str, str]:
    """Return text and reasoning of a message's content.

    Besides a string it may be a list of blocks, as gpt-oss sends it: reasoning in summaries (signed or not), then text.

    Raises:
        BadResponse: it is neither.
    """
    if content is None:
        return "", ""
    if isinstance(content, str):
        return content, ""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise BadResponse("its content is neither text nor blocks")
    text: list[str] = []
    reasoning: list[str] = []
    for block in content:
        if isinstance(block, str):
            text.append(block)
        elif block is None:
            continue
        elif not isinstance(block, dict):
            raise BadResponse("a block of its content is not an object")
        elif _string(block.get("type")) in _REASONING_BLOCKS:
            reasoning.append(_reasoning_of(block))
        elif isinstance(block.get("text"), str):
            text.append(block["text"])
    return "".join(text), "".join(reasoning)


def _is_plain(message: Mapping[str, Any]) -> bool:
    """Whether a message has nothing but its role and its content; what is null is not there."""
    return message.keys() <= _PLAIN_FIELDS or all(
        value is None for name, value in message.items() if name not in _PLAIN_FIELDS
    )


def _counts(usage: Usage | None) -> bool:
    return usage is not None and (usage.input_tokens > 0 or usage.output_tokens > 0)


def _reasoning(message: Mapping[str, Any]) -> str:
    for name in _REASONING_FIELDS:
        if said := _string(message.get(name)):
            return said
    details = message.get("reasoning_details")
    if not isinstance(details, Sequence) or isinstance(details, str):
        return ""
    return "".join(_reasoning_of(block) for block in details if isinstance(block, dict))


def _reasoning_of(block: Mapping[str, Any]) -> str:
    for parts in (block.get("summary"), block.get("thinking")):
        if isinstance(parts, list):
            return "".join(_string(part.get("text")) if isinstance(part, dict) else _string(part) for part in parts)
    return next(
        (value for name in ("thinking", "text", "content", "summary") if (value := _string(block.get(name)))), ""
    )


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""
