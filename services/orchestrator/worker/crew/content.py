"""What CrewAI's messages hold, as parts that the models service takes."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any

from coxswain.models.v1.inference_pb2 import Audio, ContentPart, Document, Image
from coxswain.models.v1.model_pb2 import Capabilities
from services.common.storable import storable
from services.orchestrator.worker.crew.material import split_material

_DATA_URL = re.compile(r"data:([^;,]*)(?:;[^,]*)?;base64,(.*)", re.DOTALL)
_TEXT_TYPES = frozenset({"text", "input_text", "output_text"})


class UnfitContent(Exception):
    """A message holds what cannot be sent to the model; `reason` is an ErrorReason without its prefix."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def text_of(content: Any) -> str:
    """Return the texts in a message's content, joined."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(_text(block) for block in content if _is_text(block))


def content_parts(
    content: Any, *, materials: Sequence[str], asks: bool, model: str, can: Capabilities
) -> list[ContentPart]:
    """Return the parts of a message; `asks` says whether it asks the model for something, and may hold material.

    Raises:
        UnfitContent: a block is of a kind that the model cannot take, or is not valid.
    """
    blocks = [content] if isinstance(content, str | Mapping) else content or ()
    parts: list[ContentPart] = []
    texts: list[str] = []

    def end_text() -> None:
        text = storable("".join(texts))
        texts.clear()
        if text:
            # Its own words and instructions are never material.
            parts.extend(split_material(text, materials) if asks else [ContentPart(text=text)])

    for block in blocks:
        if _is_text(block):
            texts.append(_text(block))
            continue
        end_text()
        parts.append(_other_part(block, model, can))
    end_text()
    return parts


def _is_text(block: Any) -> bool:
    return isinstance(block, str) or (isinstance(block, Mapping) and block.get("type", "text") in _TEXT_TYPES)


def _text(block: Any) -> str:
    return block if isinstance(block, str) else str(block.get("text") or "")


def _other_part(block: Any, model: str, can: Capabilities) -> ContentPart:
    kind = block.get("type") if isinstance(block, Mapping) else type(block).__name__
    if kind in ("image_url", "input_image"):
        _require(can.images, model, "images", "look at images")
        return ContentPart(image=_image(block.get("image_url")))
    if kind == "input_audio":
        _require(can.audio, model, "audio", "listen to audio")
        recording = block.get("input_audio") or {}
        return ContentPart(audio=Audio(data=_decoded(recording.get("data")), format=recording.get("format") or ""))
    if kind in ("file", "input_file"):
        _require(can.documents, model, "documents", "read documents")
        file = block.get("file") or block
        media_type, data = _data_url(file.get("file_data"))
        return ContentPart(document=Document(data=data, media_type=media_type, file_name=file.get("filename") or ""))
    raise UnfitContent("TASK_FAILED", f'a message holds "{kind}", which models are not sent; use text, images or files')


def _image(source: Any) -> Image:
    url, detail = (source.get("url"), source.get("detail")) if isinstance(source, Mapping) else (source, "")
    if isinstance(url, str) and url.startswith("https://"):
        return Image(url=url, detail=detail or "")
    media_type, data = _data_url(url)
    return Image(data=data, media_type=media_type, detail=detail or "")


def _data_url(url: Any) -> tuple[str, bytes]:
    found = _DATA_URL.fullmatch(url) if isinstance(url, str) else None
    if found is None:
        raise UnfitContent(
            "TASK_FAILED",
            "a message names a file by something else than an https address or a data: address; crews have no files",
        )
    return found.group(1).lower(), _decoded(found.group(2))


def _decoded(data: Any) -> bytes:
    try:
        return base64.b64decode(data if isinstance(data, str) else "!", validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnfitContent("TASK_FAILED", "a message holds a file that is not encoded in base64") from error


def _require(able: bool, model: str, capability: str, what: str) -> None:
    if not able:
        raise UnfitContent(
            "MODEL_LACKS_CAPABILITY",
            f'the model "{model}" cannot {what}, and a message of the crew holds some; choose a model whose '
            f"capabilities include {capability}",
        )
