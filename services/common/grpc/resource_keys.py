"""Requests that name a resource."""

from typing import Protocol

from services.common.resource_key import ResourceKey


class KeyedRequest(Protocol):
    """A request that names a resource by its `oneof key`."""

    id: str
    name: str


def key_from_proto(request: KeyedRequest) -> ResourceKey:
    """Return which resource a request names."""
    return ResourceKey(request.id, request.name)
