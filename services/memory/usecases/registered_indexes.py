"""The indexes that a group's backends name, and the checks that everything done with them has in common."""

from dataclasses import dataclass

from services.common.db.database import Database
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from services.common.identity.principal import Principal, Role
from services.common.resource_key import ResourceKey
from services.memory.domain.backends import DatabricksConfig, MemoryBackend, RegisteredIndex
from services.memory.domain.records import MemoryKind
from services.memory.repositories.memory_backends import MemoryBackendRepository
from services.memory.stores.databricks.filter_language import Owner
from services.memory.stores.databricks.repository import DatabricksVectorIndexRepository
from services.memory.stores.group_stores import BackendStores
from services.memory.usecases.namespaces import check_memory_id


@dataclass(frozen=True, slots=True)
class RegisteredIndexes:
    """An index that no backend of the caller's group names does not exist for the caller."""

    database: Database
    stores: BackendStores

    async def open(self, principal: Principal, index: str) -> tuple[RegisteredIndex, DatabricksVectorIndexRepository]:
        """Return an index that a backend of the caller's group names, and the repository that reads it.

        Raises:
            NotFound: no backend names it.
        """
        async with self.database.read() as connection:
            registered = await MemoryBackendRepository(connection).index(principal.group_id, index)
        if registered is None:
            raise NotFound(
                f"no memory backend of your group names the index {index}",
                reason="INDEX_NOT_REGISTERED",
                metadata={"index": index},
            )
        return registered, self.stores.repository(registered.backend)

    async def backend(self, principal: Principal, key: ResourceKey) -> MemoryBackend:
        """Return a backend of the caller's group.

        Raises:
            NotFound: there is none.
        """
        async with self.database.read() as connection:
            return await MemoryBackendRepository(connection).get(principal.group_id, key)


def config_of(backend: MemoryBackend) -> DatabricksConfig:
    """Return a backend's configuration.

    Raises:
        FailedPrecondition: it is not one of Databricks.
    """
    if backend.databricks is None:
        raise FailedPrecondition(
            f'memory backend "{backend.name}" is not in Databricks Vector Search: it has neither indexes nor endpoints',
            reason="INVALID_FIELD",
        )
    return backend.databricks


def memory_of(kind: MemoryKind, memory_id: str, *, required: bool) -> str:
    """Return a memory id that fits a kind.

    Raises:
        InvalidArgument: it is missing, is that of a stored crew, or is given for documents.
    """
    if kind is MemoryKind.DOCUMENT and memory_id:
        raise InvalidArgument.field("memory_id", "documents belong to the whole group: leave it empty")
    if required and kind is not MemoryKind.DOCUMENT and not memory_id:
        raise InvalidArgument.field("memory_id", "is empty; GetCrew returns the memory_id of a stored crew")
    check_memory_id(memory_id, "memory_id")
    return memory_id


def owner_of(principal: Principal, kind: MemoryKind, memory_id: str) -> Owner:
    """Return whose rows are meant; without a memory id the whole group's."""
    return Owner(kind, principal.group_id, memory_of(kind, memory_id, required=False) or None)


def confirm(given: str, name: str, field: str) -> None:
    """Refuse what is not confirmed.

    Raises:
        FailedPrecondition: the confirmation does not repeat the name.
    """
    if given != name:
        raise FailedPrecondition(
            f"confirm_name has to repeat the {field}'s name, {name}",
            reason="CONFIRMATION_MISMATCH",
            metadata={"expected_field": field},
        )


def need_platform_admin(principal: Principal, what: str) -> None:
    """Refuse who administers less than the platform.

    Raises:
        PermissionDenied: the caller does.
    """
    if not principal.platform_admin:
        raise PermissionDenied(
            f"{what} needs platform administration: ask a platform admin of the installation",
            reason="ROLE_REQUIRED",
            metadata={"required": Role.PLATFORM_ADMIN.name, "actual": principal.role.name},
        )
