"""What a watch says of its connection: when it was lost, and that it is back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from coxswain.client.cli.session import styled
from coxswain.client.later import errors

if TYPE_CHECKING:
    from rich.console import Console


class Outages:
    """Prints one line when a connection is lost, and one when it is back."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._since: datetime | None = None

    def lost(self, error: errors.CoxswainError) -> None:
        """Say once in an outage when the connection was lost."""
        if self._since is None:
            self._since = datetime.now(UTC)
            self._print(f"the connection was lost at {self._since:%H:%M:%S} UTC ({error.code.name}); reconnecting")

    def back(self) -> None:
        """Say that an outage is over, if there was one."""
        if self._since is not None:
            passed = (datetime.now(UTC) - self._since).total_seconds()
            self._since = None
            self._print(f"reconnected after {passed:.0f} s")

    def _print(self, text: str) -> None:
        self._console.print(styled(text, "yellow"), soft_wrap=True)
