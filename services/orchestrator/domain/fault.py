"""What is wrong with crews and requests."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a crew or a request."""

    field: str
    """Path from the request's root. Example: `spec.tasks[1].agent`."""
    description: str
