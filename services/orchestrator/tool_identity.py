"""What models call a tool, and the hash that tells whether it is still the same tool.

Crews call a tool `source/tool`, or by its bare name when it is built in. Models take names of few characters only, so
each tool has a second name for them.
"""

import json
import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from services.orchestrator.domain.tool_source import ListedTool

MODEL_NAME_LENGTH = 64
_FOR_MODELS = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_NOT_FOR_MODELS = re.compile(r"[^A-Za-z0-9_-]+")
_DIGITS = 10
# CrewAI looks tools up by a simplified name: two that are equal in that form would be one tool to it.
_CAPITALS = re.compile(r"(?<=[A-Z])(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])")
_SEPARATORS = re.compile(r"[_-]+")


def source_of(name: str) -> str:
    """Return the source in the name of a tool; empty for a built-in tool."""
    source, slash, _tool = name.partition("/")
    return source if slash else ""


def tool_of(name: str) -> str:
    """Return what the source itself calls the tool of a name; the name itself for a built-in tool."""
    return name.partition("/")[2] if "/" in name else name


def model_name(name: str) -> str:
    """Return what models call a tool: `billing__pay` for `billing/pay`.

    A name that models would not take is rewritten, cut where it is too long, and ends in a hash of the whole.
    """
    plain = name.replace("/", "__", 1)
    if _FOR_MODELS.fullmatch(plain):
        return plain
    digest = sha256(name.encode(errors="surrogatepass")).hexdigest()[:_DIGITS]
    rewritten = _NOT_FOR_MODELS.sub("_", plain)
    if not rewritten or not (rewritten[0].isalpha() or rewritten[0] == "_"):
        rewritten = f"tool_{rewritten}"
    return f"{rewritten[: MODEL_NAME_LENGTH - 1 - _DIGITS]}_{digest}"


def collisions(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of tools whose names for models cannot be told apart by whatever looks them up."""
    first: dict[str, str] = {}
    found = []
    for name in names:
        folded = _SEPARATORS.sub("_", _CAPITALS.sub("_", model_name(name)).lower()).strip("_")
        if folded in first:
            found.append((first[folded], name))
        first.setdefault(folded, name)
    return found


def tool_hash(
    name: str,
    description: str,
    arguments_schema: dict[str, Any],
    output_schema: dict[str, Any] | None = None,
    idempotent_hint: bool | None = None,
    call_digest: str = "",
) -> str:
    """Return the hash of all that models are told of a tool, what its source claims of it, and how it is called."""
    parts: list[Any] = [name, description, arguments_schema, output_schema, {"idempotent": idempotent_hint}]
    if call_digest:
        parts.append({"call": call_digest})
    return digest_of(parts)


def listed_hash(tool: ListedTool) -> str:
    """Return the hash of a tool as its source lists it."""
    return tool_hash(
        tool.name,
        tool.description,
        tool.arguments_schema,
        tool.output_schema,
        tool.idempotent_hint,
        tool.call_digest,
    )


def digest_of(value: Any) -> str:
    """Return a digest of a JSON value."""
    return sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
