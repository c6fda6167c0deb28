"""How callers name a stored thing."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ResourceKey:
    """A resource of a group, by its id or, when that is empty, by its name."""

    id: str = ""
    name: str = ""

    def __str__(self) -> str:
        return self.id or self.name


class KeyedRequest(Protocol):
    """A request that names a resource by its `oneof key`."""

    id: str
    name: str


def key_from_proto(request: KeyedRequest) -> ResourceKey:
    """Return which resource a request names."""
    return ResourceKey(request.id, request.name)
