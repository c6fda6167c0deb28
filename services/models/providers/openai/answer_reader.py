"""Answers of OpenAI's HTTP interface and its dialects, streamed or whole, as deltas.

A whole answer is read as a stream of one event, so that both give the same text, reasoning and tool calls.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.models.domain.answer import (
    Answer,
    Delta,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
)
from services.models.domain.conversation import ToolCall
from services.models.domain.usage import Usage
from services.models.providers.fault_reading import Fault, FaultKind, holds_fault, read_fault, read_words
from services.models.providers.openai.finish_reasons import FAILED_FINISHES, FINISH_REASONS
from services.models.providers.openai.message_content import read_content, read_reasoning
from services.models.providers.openai.response_errors import AnswerFailed, BadResponse
from services.models.providers.openai.thinking import ThinkingReader
from services.models.providers.think_tags import ThinkTagSplitter
from services.models.providers.tool_call_assembly import ToolCallAssembler, read_piece
from services.models.providers.unicode_repair import JsonPieceRepair, PieceRepair, repair, repair_json
from services.models.providers.usage_reading import USAGE_FIELDS, read_usage

_PLAIN_FIELDS = frozenset({"role", "content"})
# Names of models are a few words; what is longer is not one.
_MAX_MODEL_NAME = 256


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
    _other: Any = None
    """The last document that was no part of an answer."""
    _counted: dict[str, Any] = field(default_factory=dict)
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
            self._count(usage)
        if (name := document.get("model")) and isinstance(name, str) and name != self.upstream_model:
            self.upstream_model = repair(name[:_MAX_MODEL_NAME])
        choice = self._choose(document.get("choices"))
        if choice is None:
            if usage is None:
                self._other = document
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

    def _count(self, usage: Any) -> None:
        """Take counts, which may be of the prompt in one event and of the answer in another."""
        if not isinstance(usage, dict):
            return
        # What grows never falls to nothing: some count nothing in their last event. Any other name may come in any
        # number, and would be copied at each event.
        counted = dict(self._counted)
        for name in USAGE_FIELDS:
            if name in usage and (usage[name] or name not in counted):
                counted[name] = usage[name]
        if (read := read_usage(counted, of_answer=True)) is not None:
            self._counted, self.usage = counted, read

    def fault(self) -> Fault | None:
        """Return the error that came in the place of an answer, where what came has words of one."""
        return None if self.begun else read_words(self._other)

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
        if word in FAILED_FINISHES:
            raise AnswerFailed(Fault(FaultKind.UNAVAILABLE, None, f"the answer ended with {self._word}"))
        if self._refusal and not self._said:
            deltas.append(TextDelta("".join(self._refusal)))
            self.finish_reason = FinishReason.CONTENT_FILTER
            return deltas
        reason = FINISH_REASONS.get(word, FinishReason.STOP)
        if reason in (FinishReason.STOP, FinishReason.TOOL_CALLS):
            # Some upstreams say "stop" beside tool calls, others "tool_calls" without one.
            reason = FinishReason.TOOL_CALLS if self._calls else FinishReason.STOP
        if not self._said and not self._calls:
            if word and word not in FINISH_REASONS:
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
        reasoning = self._reasoning_repair.feed(read_reasoning(message) + thought)
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
        if (refusal := message.get("refusal")) and isinstance(refusal, str):
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
    if (fault := reader.fault()) is not None:
        raise AnswerFailed(fault)
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


def _is_plain(message: Mapping[str, Any]) -> bool:
    """Whether a message has nothing but its role and its content; what is null is not there."""
    return message.keys() <= _PLAIN_FIELDS or all(
        value is None for name, value in message.items() if name not in _PLAIN_FIELDS
    )


def _counts(usage: Usage | None) -> bool:
    return usage is not None and (usage.input_tokens > 0 or usage.output_tokens > 0)
