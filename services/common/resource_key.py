"""How callers name a stored thing."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ResourceKey:
    """A resource of a group, by its id or, when that is empty, by its name."""

    id: str = ""
    name: str = ""

    def __str__(self) -> str:
        return self.id or self.name
