"""What checks of backends find."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked, what was found, and how to correct it (empty when the check passed)."""

    subject: str
    finding: str
    remedy: str = ""

    @property
    def ok(self) -> bool:
        """Whether the check passed."""
        return not self.remedy
