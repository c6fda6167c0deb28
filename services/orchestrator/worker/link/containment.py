"""What a worker host and its crew processes agree on about containment (`services.common.containment`)."""

from collections.abc import Mapping
from typing import Literal

ContainmentMode = Literal["prefer", "require", "off"]
"""What an operator wants: as far as the kernel can, altogether or the host does not start, or not at all."""

_VARIABLE = "CREW_CONTAINMENT"


def containment_variables(mode: ContainmentMode) -> dict[str, str]:
    """Return what passes it on to the fork server."""
    return {_VARIABLE: mode}


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Return whether crew processes are to be contained."""
    return environment.get(_VARIABLE) != "off"


def own_directory(pid: int, token: int | str) -> str:
    """Return the name of the directory that a crew process has below the home of its fork server."""
    return f"crew-{pid}-{token}"
