"""How calls of tools end."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Returned:
    """The tool returned something, which may say that it failed."""

    text: str
    structured_json: str = ""
    """Empty when the result has no structure."""
    is_error: bool = False
    artifact_ids: tuple[str, ...] = ()
    kind: Literal["RETURNED"] = "RETURNED"


@dataclass(frozen=True, slots=True)
class Failed:
    """The call has no result, and that is certain. It was not made, unless `made`."""

    reason: str
    """Name of an ErrorReason."""
    message: str
    temporary: bool = False
    """Whether the same call may succeed later."""
    made: bool = False
    """Whether it was made all the same, or may have been: its result is too large, or it may be made twice."""
    kind: Literal["FAILED"] = "FAILED"


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody knows whether the call has had an effect."""

    message: str
    """What was seen of it."""
    kind: Literal["UNKNOWN"] = "UNKNOWN"


Outcome = Returned | Failed | Unknown
