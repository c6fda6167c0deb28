"""Variables that look like settings and are none: a misspelt one would be ignored without a word."""

import difflib
import os
from collections.abc import Iterable, Iterator

import structlog

from services.common.environment import read_kinds, variables_of
from services.common.settings import PARTS, SERVICES, ServiceSettings

logger = structlog.get_logger(__name__)

_PREFIX = "COXSWAIN_"
_OF_PROCESSES = tuple(f"{_PREFIX}{name.upper()}_" for name in (*SERVICES, *PARTS, "worker"))
# Read by auth alone.
_DEFAULT_LIMITS = f"{_PREFIX}LIMIT_"
# Of the suite, and of the command line, which may run in the same environment.
_ELSEWHERE = frozenset(
    f"{_PREFIX}{name}"
    for name in ("WORKERS", "ADDRESS", "TOKEN", "GROUP", "TLS", "CA_FILE", "CONTEXT", "CONTEXTS", "DEBUG")
)
# Names are the operator's own behind these.
_OPEN = ("COXSWAIN_TOOLS_SECRET_",)


def log_unknown_variables() -> None:
    """Warn of each variable that no process of the installation reads; call it when all settings have been read."""
    for variable, nearest in unknown_variables(os.environ):
        logger.warning("unknown_setting", variable=variable, nearest=nearest)


def unknown_variables(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield those names that are no settings, and the nearest setting; "" where none is near.

    Settings of other processes cannot be judged here, and are left to those.
    """
    kinds = read_kinds()
    own = _names(kinds)
    judged = {prefix for kind, prefix in kinds if kind is not ServiceSettings}
    for name in sorted(names):
        variable = name.upper()
        if not variable.startswith(_PREFIX) or variable in own | _ELSEWHERE or variable.startswith(_OPEN):
            continue
        foreign = next((prefix for prefix in (*_OF_PROCESSES, _DEFAULT_LIMITS) if variable.startswith(prefix)), "")
        if foreign and foreign not in judged:
            continue
        near = difflib.get_close_matches(variable, own, n=1, cutoff=0.7)
        yield name, near[0] if near else ""


def _names(kinds: Iterable[tuple[type, str]]) -> frozenset[str]:
    found = {variable for kind, prefix in kinds for variable in variables_of(kind, prefix)}
    for name in (*SERVICES, *PARTS):
        found.update(variables_of(ServiceSettings, f"{_PREFIX}{name.upper()}_"))
    return frozenset(found)
