"""Thinking that an upstream wants back in the next turn, put together from the pieces it sends."""

from collections.abc import Iterator, Mapping
from typing import Any

from services.models.domain.answer import ThinkingDelta
from services.models.domain.conversation import Thinking
from services.models.domain.model import Model, Provider
from services.models.domain.thinking import BLOCK_TYPES, PLAIN_FORMS, ThinkingForm, ThinkingState
from services.models.providers.unicode_repair import repair

_GROWING = frozenset({"thinking", "text", "summary"})
"""Fields that a stream sends in pieces."""
_SEALS = ("signature", "data", "encrypted_content")
"""Fields that make a piece one to hand back; they come with its last piece."""
_FIELDS = frozenset({*ThinkingForm, "provider_specific_fields"} - {ThinkingForm.CONTENT})
"""Fields of a message that may hold thinking, whatever its content."""
# Where plain reasoning goes back, as some models want it before the results of their tools. Others refuse the field.
_PLAIN = frozenset({Provider.OPENAI, Provider.OLLAMA, Provider.VLLM})
_PLAIN_THROUGH_LITELLM = frozenset({"deepseek", "moonshot"})


class ThinkingReader:
    """Reads the thinking of one answer beside its text."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._open: tuple[ThinkingForm, _Block] | None = None
        self._plain: tuple[ThinkingForm, list[str]] | None = None
        self._takes_plain = _takes_plain(model)
        self._sealed = False
        self._signatures: set[str] = set()

    @property
    def open(self) -> bool:
        """Whether thinking has come that is not complete."""
        return self._open is not None or self._plain is not None

    def feed(self, message: Mapping[str, Any], *, follows: bool) -> list[ThinkingDelta]:
        """Return the thinking that a message of the answer completes.

        `follows` says whether text or tool calls have come, which end what came before.
        """
        if not self.open and _holds_none(message):
            return []
        done: list[ThinkingDelta] = []
        for form, block in _blocks(message):
            if self._open is not None and (self._open[0] is not form or not self._open[1].continues(block)):
                done += self._close()
            if self._open is None:
                self._open = form, _Block()
            self._open[1].add(block)
            if self._open[1].sealed:
                done += self._close()
        for signature in _signatures(message):
            if signature not in self._signatures:
                self._signatures.add(signature)
                done.append(self._thinking("", ThinkingForm.SIGNATURES, signature))
        self._feed_plain(message)
        return done + self.finish() if follows else done

    def finish(self) -> list[ThinkingDelta]:
        """Return what the end of the answer, or what follows the thinking, completes."""
        done = self._close()
        if self._plain is not None:
            form, pieces = self._plain
            if not self._sealed:
                done.append(self._thinking("".join(pieces), form, None))
            self._plain = None
        return done

    def _feed_plain(self, message: Mapping[str, Any]) -> None:
        if not self._takes_plain:
            return
        for form in PLAIN_FORMS:
            piece = message.get(form)
            if isinstance(piece, str) and piece:
                if self._plain is None:
                    self._plain = form, []
                self._plain[1].append(piece)
                return

    def _close(self) -> list[ThinkingDelta]:
        if self._open is None:
            return []
        (form, block), self._open = self._open, None
        if not block.wanted and form is not ThinkingForm.DETAILS:
            return []
        # The words beside it say the same.
        self._sealed = True
        return [self._thinking(block.text, form, block.value())]

    def _thinking(self, text: str, form: ThinkingForm, value: Any) -> ThinkingDelta:
        state = ThinkingState(self._model.name, form, value).to_text()
        return ThinkingDelta(Thinking(repair(text), repair(state)))


class _Block:
    """A block that arrives in pieces."""

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}

    def continues(self, piece: Mapping[str, Any]) -> bool:
        """Whether a piece belongs to this block."""
        same = all(piece.get(key) in (None, self._fields.get(key)) for key in ("type", "index"))
        ids = {value for value in (piece.get("id"), self._fields.get("id")) if isinstance(value, str) and value}
        return same and len(ids) < 2

    def add(self, piece: Mapping[str, Any]) -> None:
        for key, value in piece.items():
            known = self._fields.get(key)
            if key in _GROWING and isinstance(value, str):
                if isinstance(known, _Text):
                    known.append(value)
                else:
                    self._fields[key] = _Text([value])
            elif key in _GROWING and isinstance(value, list):
                parts = known if isinstance(known, _Parts) else self._fields.setdefault(key, _Parts())
                if isinstance(parts, _Parts):
                    parts.add(value)
            elif value not in (None, "") or key not in self._fields:
                self._fields[key] = value

    @property
    def sealed(self) -> bool:
        """Whether it holds what comes last."""
        parts = self._fields.get("summary")
        return any(_filled(self._fields.get(key)) for key in _SEALS) or (isinstance(parts, _Parts) and parts.sealed)

    @property
    def wanted(self) -> bool:
        """Whether its upstream wants it back."""
        return self.sealed or isinstance(self._fields.get("thinking"), _Parts)

    @property
    def text(self) -> str:
        """What it says in words."""
        return "".join(
            value.text
            for key in ("thinking", "text", "summary")
            if isinstance(value := self._fields.get(key), _Text | _Parts)
        )

    def value(self) -> dict[str, Any]:
        """Return it as its upstream sends it whole."""
        return {
            key: value.text if isinstance(value, _Text) else value.value() if isinstance(value, _Parts) else value
            for key, value in self._fields.items()
        }


class _Text(list[str]):
    """A text in pieces."""

    @property
    def text(self) -> str:
        return "".join(self)


class _Parts(list[_Block]):
    """Blocks within a block, the last of which may go on."""

    def add(self, pieces: list[Any]) -> None:
        for piece in pieces:
            if not isinstance(piece, dict):
                continue
            if not self or self[-1].sealed or not self[-1].continues(piece):
                self.append(_Block())
            self[-1].add(piece)

    @property
    def sealed(self) -> bool:
        return bool(self) and self[-1].sealed

    @property
    def text(self) -> str:
        return "".join(part.text for part in self)

    def value(self) -> list[dict[str, Any]]:
        return [part.value() for part in self]


def _holds_none(message: Mapping[str, Any]) -> bool:
    """Whether a message is plain text, as most pieces of a stream are."""
    content = message.get("content")
    return (content is None or isinstance(content, str)) and message.keys().isdisjoint(_FIELDS)


def _blocks(message: Mapping[str, Any]) -> Iterator[tuple[ThinkingForm, Mapping[str, Any]]]:
    """Yield the blocks of thinking in a message, or in a piece of one."""
    beside = message.get("provider_specific_fields")
    for form, types in BLOCK_TYPES.items():
        blocks = message.get(form)
        if blocks is None and isinstance(beside, dict):
            blocks = beside.get(form)
        for block in [blocks] if isinstance(blocks, dict) else blocks if isinstance(blocks, list) else ():
            kind = block.get("type") if isinstance(block, dict) else None
            if isinstance(kind, str) and kind in types:
                yield form, block


def _signatures(message: Mapping[str, Any]) -> Iterator[str]:
    beside = message.get("provider_specific_fields")
    signatures = beside.get(ThinkingForm.SIGNATURES) if isinstance(beside, dict) else None
    for signature in signatures if isinstance(signatures, list) else ():
        if isinstance(signature, str) and signature:
            yield signature


def _takes_plain(model: Model) -> bool:
    if model.spec.provider is Provider.LITELLM:
        return model.spec.upstream_name.partition("/")[0] in _PLAIN_THROUGH_LITELLM
    return model.spec.provider in _PLAIN


def _filled(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
