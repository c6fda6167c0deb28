"""Which of the gateway's own tools a group cannot use now."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from services.common.errors import CoxswainError
from services.common.identity.principal import Principal
from services.orchestrator.tool_gateway.ports import BuiltinCheck, CallRefused, NotSent

_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class BuiltinProblem:
    """Why a tool cannot be used."""

    tool: str
    reason: str
    """Name of an ErrorReason."""
    message: str


class BuiltinProblems:
    """Asks for the settings and credentials of tools without calling them."""

    def __init__(self, checks: Mapping[str, BuiltinCheck]) -> None:
        """`checks` are by the names of the tools; tools that need nothing have none."""
        self._checks = checks

    async def find(self, principal: Principal) -> list[BuiltinProblem]:
        """Return the tools that cannot be used, by name; of one that could not be found out nothing is said."""
        # Tools may share what they need.
        checks = set(self._checks.values())
        found = dict(zip(checks, await asyncio.gather(*(_problem(check, principal) for check in checks)), strict=True))
        return [
            BuiltinProblem(tool, refused.reason, str(refused))
            for tool, check in sorted(self._checks.items())
            if (refused := found[check]) is not None
        ]


async def _problem(check: BuiltinCheck, principal: Principal) -> CallRefused | None:
    try:
        async with asyncio.timeout(_SECONDS):
            await check(principal)
    except CallRefused as refused:
        return refused
    except (NotSent, CoxswainError, TimeoutError):
        return None
    return None
