"""What is wrong with the parts of messages before any model is asked."""

from collections.abc import Sequence

from services.common.egress import is_public_https
from services.common.errors import InvalidArgument
from services.models.domain.conversation import Audio, ContentPart, Document, Image, Message, MessageRole, Thinking
from services.models.domain.media import (
    AUDIO_FORMATS,
    IMAGE_TYPES,
    PDF,
    audio_format,
    document_type,
    image_type,
    is_text,
)
from services.models.domain.model import Model, ModelSpec
from services.models.domain.thinking import ThinkingState
from services.models.usecases.capabilities import lacking_capability

_MAX_CACHE_MARKS = 4
# Providers whose upstreams fetch images themselves. litellm would fetch them in our own network for all others.
_FETCHING = frozenset({"openai", "azure", "databricks"})
_FETCHING_THROUGH_LITELLM = frozenset(
    {"anthropic", "openrouter", "mistral", "groq", "xai", "fireworks_ai", "together_ai"}
)


class PartChecks:
    """Checks what is in messages besides text."""

    def __init__(self, max_part_bytes: int) -> None:
        """`max_part_bytes` is the size of the largest file in a message."""
        self._max_part_bytes = max_part_bytes

    def check(self, model: Model, messages: Sequence[Message]) -> None:
        """Check that every part can be sent, and that the model can take it.

        Raises:
            InvalidArgument: a part is not valid, or stands where it cannot.
            FailedPrecondition: the model lacks a capability.
        """
        marks = 0
        for index, message in enumerate(messages):
            if all(part.other is None and not part.cache_mark for part in message.content):
                continue
            for number, part in enumerate(message.content):
                path = f"completion.messages[{index}].content[{number}]"
                marks += part.cache_mark
                if part.cache_mark and marks > _MAX_CACHE_MARKS:
                    raise InvalidArgument.field(
                        f"{path}.cache_mark",
                        f"upstreams take at most {_MAX_CACHE_MARKS} marks in a conversation; keep the last ones",
                    )
                self._check_part(model, message.role, part, path)
            if not _says_something(message):
                raise InvalidArgument.field(
                    f"completion.messages[{index}].content", "must hold text or tool calls besides the thinking"
                )

    def _check_part(self, model: Model, role: MessageRole, part: ContentPart, path: str) -> None:
        can = model.spec.capabilities
        match part.other:
            case Image():
                _check_role(role, f"{path}.image", MessageRole.USER, MessageRole.TOOL)
                if not can.images:
                    raise lacking_capability(model, "images", "look at images")
                self._check_image(model.spec, part.other, f"{path}.image")
            case Document():
                _check_role(role, f"{path}.document", MessageRole.USER, MessageRole.TOOL)
                if not can.documents:
                    raise lacking_capability(model, "documents", "read documents")
                self._check_document(part.other, f"{path}.document")
            case Audio():
                _check_role(role, f"{path}.audio", MessageRole.USER)
                if not can.audio:
                    raise lacking_capability(model, "audio", "listen to audio")
                self._check_audio(part.other, f"{path}.audio")
            case Thinking():
                _check_role(role, f"{path}.thinking", MessageRole.ASSISTANT)
                _check_thinking(part.other, f"{path}.thinking")
                if part.cache_mark:
                    raise InvalidArgument.field(
                        f"{path}.cache_mark", "must not be set on thinking; mark the text or a later message"
                    )
            case None if part.cache_mark and not part.text.strip():
                raise InvalidArgument.field(f"{path}.cache_mark", "must not be set on empty text; mark the part before")
            case _:
                pass

    def _check_image(self, spec: ModelSpec, image: Image, path: str) -> None:
        if image.url:
            if not is_public_https(image.url):
                raise InvalidArgument.field(
                    f"{path}.url",
                    "must be an https address at a public host, as in https://example.com/plan.png; send the bytes of "
                    "other images as data",
                )
            if not _fetches(spec):
                raise InvalidArgument.field(
                    f"{path}.url",
                    "the upstream of this model fetches no images from addresses; send the bytes as data",
                )
            return
        self._check_size(image.data, f"{path}.data")
        found = image_type(image.data)
        if not found:
            raise InvalidArgument.field(f"{path}.data", f"must be a file of one of the types {', '.join(IMAGE_TYPES)}")
        if image.media_type not in ("", found):
            raise InvalidArgument.field(
                f"{path}.media_type", f"must be {found}, as the data shows, or be left empty; it is {image.media_type}"
            )

    def _check_document(self, document: Document, path: str) -> None:
        self._check_size(document.data, f"{path}.data")
        found = document_type(document.data)
        if not found:
            raise InvalidArgument.field(f"{path}.data", "must be a PDF or text in UTF-8")
        given = document.media_type
        if not given:
            return
        agrees = found == PDF if given == PDF else is_text(document.data)
        if not agrees:
            raise InvalidArgument.field(
                f"{path}.media_type", f"must be {found}, as the data shows, or be left empty; it is {given}"
            )

    def _check_audio(self, audio: Audio, path: str) -> None:
        self._check_size(audio.data, f"{path}.data")
        found = audio_format(audio.data)
        if not found:
            raise InvalidArgument.field(
                f"{path}.data", f"must be a recording in one of the formats {', '.join(AUDIO_FORMATS)}"
            )
        if audio.format not in ("", found):
            raise InvalidArgument.field(
                f"{path}.format", f"must be {found}, as the data shows, or be left empty; it is {audio.format}"
            )

    def _check_size(self, data: bytes, path: str) -> None:
        if len(data) > self._max_part_bytes:
            raise InvalidArgument.field(
                path,
                f"must have at most {self._max_part_bytes} bytes and has {len(data)}; send a smaller one, or ask the "
                "operator to raise COXSWAIN_MODELS_MAX_PART_BYTES",
            )


def _check_role(role: MessageRole, path: str, *allowed: MessageRole) -> None:
    if role not in allowed:
        names = " and ".join(each.name for each in allowed)
        raise InvalidArgument.field(path, f"can only be in messages of {names}; this one's role is {role.name}")


def _check_thinking(thinking: Thinking, path: str) -> None:
    try:
        ThinkingState.from_text(thinking.provider_state)
    except ValueError as error:
        raise InvalidArgument.field(
            f"{path}.provider_state",
            "hand back what the thinking of the answer held, unchanged, or leave the whole part out",
        ) from error


def _says_something(message: Message) -> bool:
    thinks = any(isinstance(part.other, Thinking) for part in message.content)
    return not thinks or bool(message.tool_calls) or bool(message.text)


def _fetches(spec: ModelSpec) -> bool:
    if spec.provider == "litellm":
        return spec.upstream_name.partition("/")[0] in _FETCHING_THROUGH_LITELLM
    return spec.provider in _FETCHING
