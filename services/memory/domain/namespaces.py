"""Namespaces: which records belong together, and under which ids they are stored."""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from services.memory.domain.digest import digest, digest_behind
from services.memory.domain.records import MemoryKind
from services.memory.domain.vectors import EmbeddingSpace


@dataclass(frozen=True, slots=True)
class NamespaceKey:
    """Whose records: those of a group, under one memory id, of one kind. A document belongs to the group alone."""

    group_id: str
    memory_id: str
    kind: MemoryKind

    @property
    def id(self) -> str:
        """The namespace's own id: the same on every machine."""
        return _namespace_id(self)

    def stored_id(self, client_id: str) -> str:
        """Return the id of a record in any store: no other namespace can produce it."""
        return stored_id_of(self.group_id, self.memory_id, self.kind, client_id)


def stored_id_of(group_id: str, memory_id: str, kind: MemoryKind, client_id: str) -> str:
    """Return what `NamespaceKey.stored_id` does, for rows of which each may say another namespace."""
    return digest_behind(("record", group_id, kind, memory_id), client_id)


@lru_cache(4096)
def _namespace_id(key: NamespaceKey) -> str:
    return digest("namespace", key.group_id, key.kind.name, key.memory_id)


def namespace_secret(secret: bytes, key: NamespaceKey) -> bytes:
    """Return what a secret is for one namespace: agents of one name in two of them are two owners."""
    return hmac.digest(secret, key.id.encode(), "sha256")


@dataclass(frozen=True, slots=True)
class NamespaceInfo:
    """A namespace and its figures."""

    key: NamespaceKey
    space: EmbeddingSpace
    record_count: int
    version: int
    crew_name: str = ""
    """As the last save that named the crew did."""
    at_least: bool = False
    """Whether there may be more records than `record_count`."""
    problem: str = ""
    """Why the records could not be counted; empty when they were."""
    removal_version: int = 0
    """The version of the last change that took records away."""


def derive_memory_id(
    *,
    group_id: str,
    agent_roles: Sequence[str],
    task_names: Sequence[str],
    crew_name: str,
    model: str,
    run_name: str,
    memory_name: str = "",
) -> str:
    """Return the stable id of a memory: by its name alone, or by its crew, each ingredient of which matters.

    The order of roles and tasks does not.
    """
    if memory_name:
        return digest("memory", group_id, memory_name)[:32]
    roles, tasks = sorted(agent_roles), sorted(task_names)
    return digest("crew", group_id, crew_name, model, run_name, str(len(roles)), *roles, str(len(tasks)), *tasks)[:32]
