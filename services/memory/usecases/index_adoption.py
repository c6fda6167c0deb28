"""Taking over indexes that something else has filled."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from services.common.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from services.common.identity.principal import Principal
from services.common.ids import is_id
from services.common.resource_key import ResourceKey
from services.memory.domain.backends import MemoryBackend
from services.memory.domain.records import MemoryKind
from services.memory.domain.vectors import EmbeddingSpace, embedding_mismatch_of_index
from services.memory.repositories.memory_backends import MemoryBackendRepository
from services.memory.rows.columns import Column, has_column
from services.memory.rows.row import Row, is_own
from services.memory.rows.values import read_text
from services.memory.stores.databricks.descriptions import IndexDescription, ResourceState
from services.memory.stores.databricks.filter_language import Owner
from services.memory.stores.databricks.provisioning import index_faults
from services.memory.stores.databricks.repository import DatabricksVectorIndexRepository
from services.memory.stores.databricks.survey import Survey
from services.memory.stores.databricks.upstream_errors import index_missing
from services.memory.stores.databricks.wire import can_be_written
from services.memory.usecases.index_resources import registration
from services.memory.usecases.registered_indexes import RegisteredIndexes, config_of, need_platform_admin

_MOST_MEMORIES = 1000
_MAX_MEMORY_ID = 128
_WRITTEN_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Adoption:
    """Which index to take over, and the ids that its rows carry."""

    index: str
    """Full name; empty means the one that the backend names for the kind."""
    kind: MemoryKind
    from_group: str = ""
    """The group id of the rows; empty means the caller's."""
    memory_ids: Mapping[str, str] = field(default_factory=dict)
    """Memory ids of the rows, and those they are given."""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class AdoptedMemory:
    """A memory id, how many records are found under it, and why requests cannot name it."""

    memory_id: str
    record_count: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class AdoptionReport:
    """What an index holds for the group."""

    survey: Survey
    changed: int
    of_others: int
    memories: Sequence[AdoptedMemory]


@dataclass(frozen=True, slots=True)
class AdoptionStep:
    """How many of an index's rows (0: not known) a step has been through; the last one has the report."""

    text: str
    done: int
    total: int
    rate: float
    report: AdoptionReport | None = None


class IndexAdoptions:
    """Takes over indexes for the calling principal's group."""

    def __init__(self, registered: RegisteredIndexes) -> None:
        self._registered = registered

    async def adopt(self, principal: Principal, key: ResourceKey, wanted: Adoption) -> AsyncIterator[AdoptionStep]:
        """Check an index, give the group's ids to its rows where they carry others, register it, and report.

        Raises:
            NotFound: the group has no backend of that id or name.
            InvalidArgument: the index is in another schema, or a memory id cannot be given.
            PermissionDenied: the rows may be another group's.
            FailedPrecondition: the index is missing, not ready, or read only where rows have to be changed; or its
                columns, dimension or embedding model are not the backend's.
        """
        backend = await self._registered.backend(principal, key)
        config = config_of(backend)
        index = wanted.index or config.index_name(wanted.kind)
        if not index:
            raise InvalidArgument.field("index", f"is needed: the backend names no index for {wanted.kind.name}")
        register = registration(index, wanted.kind)
        register(backend)
        self._check_ids(wanted)
        await self._check_group(principal, index, wanted.from_group)
        repository = self._registered.stores.repository(backend)
        description = await _usable(repository, index, wanted.kind, config.space.dimension)
        rows = _Rows(principal.group_id, wanted)
        if rows.changes and not wanted.dry_run:
            await repository.check_writable(index)
        async for step in self._survey(repository, index, rows, description.row_count):
            yield step
        other = rows.other_model(config.space.model)
        if other:
            raise embedding_mismatch_of_index(index, EmbeddingSpace(other, config.space.dimension), config.space)
        if not wanted.dry_run:
            if rows.to_change:
                async for step in self._change(repository, index, rows, description.row_count):
                    yield step
            await self._register(principal, backend, index, wanted.kind, rows.usable_memory_ids())
        yield AdoptionStep("done", description.row_count, description.row_count, 0.0, rows.report())

    def _check_ids(self, wanted: Adoption) -> None:
        for memory_id in wanted.memory_ids.values():
            if is_id(memory_id):
                raise InvalidArgument.field(
                    "memory_ids", f"{memory_id} looks like a stored crew's id; give the crew's memory_id (GetCrew)"
                )
        moved_on = sorted(
            memory_id
            for old, memory_id in wanted.memory_ids.items()
            if memory_id != old and wanted.memory_ids.get(memory_id, memory_id) != memory_id
        )
        if moved_on:
            raise InvalidArgument.field(
                "memory_ids",
                f'"{moved_on[0]}" is an id to give and one to replace: a call that is repeated would give its rows the '
                "next one; make a call for each, first the one that replaces it; where ids form a circle, begin with "
                "a call that replaces one of them by an id that no row has",
            )
        if wanted.memory_ids and not has_column(wanted.kind, Column.CREW_ID):
            raise InvalidArgument.field("memory_ids", "documents belong to the whole group and have none")

    async def _check_group(self, principal: Principal, index: str, from_group: str) -> None:
        """Refuse to take rows over that may be those of a group of this installation."""
        if not from_group or from_group == principal.group_id:
            return
        async with self._registered.database.read() as connection:
            backends = MemoryBackendRepository(connection)
            shared = await backends.named_by_others(principal.group_id, index)
            known = await backends.knows_group(from_group)
        if shared:
            raise PermissionDenied(
                f"backends of other groups name index {index}: rows are taken over from another group id only in an "
                "index that one group alone uses",
                reason="ROLE_REQUIRED",
                metadata={"required": "an index of the group's own", "actual": principal.role.name},
            )
        if known or is_id(from_group):
            need_platform_admin(principal, f'"{from_group}" may be a group of this installation: taking over its rows')

    async def _survey(
        self, repository: DatabricksVectorIndexRepository, index: str, rows: "_Rows", total: int
    ) -> AsyncIterator[AdoptionStep]:
        done, started = 0, time.monotonic()
        async for page, _ in repository.scan_all(index, rows.kind):
            for row in page:
                rows.look_at(row)
            done += len(page)
            yield AdoptionStep("reading", done, max(total, done), done / max(time.monotonic() - started, 1e-6))

    async def _change(
        self, repository: DatabricksVectorIndexRepository, index: str, rows: "_Rows", total: int
    ) -> AsyncIterator[AdoptionStep]:
        done, started = 0, time.monotonic()
        async for page, _ in repository.scan_all(index, rows.kind):
            changed = [given for row in page if (given := rows.changed(row)) is not None]
            for start in range(0, len(changed), _WRITTEN_AT_ONCE):
                await repository.write_rows(index, changed[start : start + _WRITTEN_AT_ONCE])
            done += len(page)
            yield AdoptionStep("changing ids", done, max(total, done), done / max(time.monotonic() - started, 1e-6))

    async def _register(
        self, principal: Principal, backend: MemoryBackend, index: str, kind: MemoryKind, memory_ids: Sequence[str]
    ) -> None:
        register = registration(index, kind)
        async with self._registered.database.write() as connection:
            backends = MemoryBackendRepository(connection)
            await backends.hold(principal.group_id)
            stored = register(await backends.get(principal.group_id, ResourceKey(id=backend.id)))
            await backends.store(stored)
            await backends.note_namespaces(stored, memory_ids, kind)
        self._registered.stores.forget(principal.group_id)


class _Rows:
    """The rows of an index as an adoption understands them."""

    def __init__(self, group_id: str, wanted: Adoption) -> None:
        self.kind = wanted.kind
        self.changes = bool(wanted.memory_ids) or wanted.from_group not in ("", group_id)
        self._group_id = group_id
        self._from_group = wanted.from_group or group_id
        self._memory_ids = wanted.memory_ids
        self._own = Owner(wanted.kind, group_id, None)
        self._survey = Survey()
        self._models: Counter[str] = Counter()
        self.to_change = 0
        self._of_others = 0

    def look_at(self, row: Row) -> None:
        """Count a row."""
        changed = self.changed(row)
        self.to_change += changed is not None
        mine = row if changed is None else changed
        if not self._own.owns(mine):
            self._of_others += 1
            return
        self._survey.add(self.kind, mine)
        self._models[read_text(row.get(Column.EMBEDDING_MODEL))] += 1

    def changed(self, row: Row) -> Row | None:
        """Return a row with the ids that it is given, None for one that stays as it is.

        What this service has written for a group stays that group's: its primary keys were made from the ids. What
        cannot be written again, because it has no vector or holds NaN, stays as it is, too.
        """
        group = row.get(Column.GROUP_ID)
        if group not in (self._from_group, self._group_id) or is_own(self.kind, row):
            return None
        given = {**row, Column.GROUP_ID: self._group_id}
        memory_id = row.get(Column.CREW_ID)
        if has_column(self.kind, Column.CREW_ID) and isinstance(memory_id, str):
            given[Column.CREW_ID] = self._memory_ids.get(memory_id, memory_id)
        return given if given != row and can_be_written(given) else None

    def other_model(self, model: str) -> str:
        """Return the embedding model that most rows name, if it is another than the backend's; else an empty text."""
        named = [(name, count) for name, count in self._models.items() if name and not _same_model(name, model)]
        return max(named, key=lambda entry: entry[1])[0] if named else ""

    def report(self) -> AdoptionReport:
        """Return what was found, and of the memory ids the most common ones."""
        most = self._survey.by_memory.most_common(_MOST_MEMORIES)
        memories = [AdoptedMemory(memory_id, count, self._problem(memory_id)) for memory_id, count in most]
        return AdoptionReport(self._survey, self.to_change, self._of_others, memories)

    def usable_memory_ids(self) -> Sequence[str]:
        """Return all memory ids that requests can name."""
        return [memory_id for memory_id in self._survey.by_memory if not self._problem(memory_id)]

    def _problem(self, memory_id: str) -> str:
        if not has_column(self.kind, Column.CREW_ID):
            return ""
        if not memory_id:
            return "these rows have no memory id: only SimilaritySearch without one finds them"
        if is_id(memory_id):
            return "it looks like a stored crew's id, which requests refuse: give these rows another one in memory_ids"
        if "\0" in memory_id:
            return "it has U+0000, which requests cannot have: give these rows another one in memory_ids"
        if len(memory_id) > _MAX_MEMORY_ID:
            return f"requests name up to {_MAX_MEMORY_ID} characters: give these rows another one in memory_ids"
        return ""


def _same_model(one: str, other: str) -> bool:
    """Return whether two names mean one model: some programs write the provider before it, some do not."""
    return one.rpartition("/")[2].lower() == other.rpartition("/")[2].lower()


async def _usable(
    repository: DatabricksVectorIndexRepository, index: str, kind: MemoryKind, dimension: int
) -> IndexDescription:
    description = await repository.resources.describe_index(index)
    if description.state is ResourceState.NOT_FOUND:
        raise index_missing(f"index {index}")
    faults = index_faults(description, repository.resources.endpoint, kind, dimension)
    if description.state is not ResourceState.READY:
        faults.append(f"it is {description.detailed_state or description.state.name}")
    if faults:
        raise FailedPrecondition(
            f"index {index} cannot be taken over: {'; '.join(faults)}",
            reason="INDEX_NOT_READY",
            metadata={"index": index, "state": description.state.name},
        )
    return description
