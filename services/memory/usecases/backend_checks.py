"""Whether a backend works, and how to correct what does not."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

from services.common.clock import utc_now
from services.common.errors import CoxswainError, Unavailable
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.common.resource_key import ResourceKey
from services.memory.domain.backends import DatabricksConfig, MemoryBackend
from services.memory.domain.filters import EVERYTHING
from services.memory.domain.records import MemoryKind
from services.memory.domain.scores import ScoreMeasure
from services.memory.repositories.memory_backends import MemoryBackendRepository
from services.memory.stores.databricks.descriptions import IndexDescription, ResourceState
from services.memory.stores.databricks.filter_language import Owner
from services.memory.stores.databricks.provisioning import index_faults, wanted_indexes
from services.memory.stores.databricks.queries import MAX_RESULTS
from services.memory.stores.databricks.repository import DatabricksVectorIndexRepository
from services.memory.stores.databricks.resources import WorkspaceResources
from services.memory.stores.databricks.survey import Survey
from services.memory.usecases.checks import Check
from services.memory.usecases.database_checks import DatabaseChecks
from services.memory.usecases.registered_indexes import RegisteredIndexes
from services.memory.usecases.score_measure import ScoreUnknown, measure

_SECONDS = 25.0
"""Time that all checks have: callers expect an answer within 30 seconds, also from a workspace that gives none."""
_SHOWN_KEYS = 5


class BackendChecks:
    """Checks what backends of the calling principal's group need."""

    def __init__(self, registered: RegisteredIndexes, databases: DatabaseChecks, *, seconds: float = _SECONDS) -> None:
        self._registered = registered
        self._databases = databases
        self._seconds = seconds

    async def verify(self, principal: Principal, key: ResourceKey) -> Sequence[Check]:
        """Check endpoint, indexes, schema, and the rights of the caller's credential, and measure how scores are made.

        Raises:
            NotFound: the group has no backend of that id or name.
        """
        backend = await self._registered.backend(principal, key)
        if backend.embedded:
            return [Check("embedded default", "is always available")]
        if backend.disabled:
            return [Check("configuration", "every kind is disabled: the embedded default is used instead")]
        if backend.pgvector is not None:
            end = asyncio.get_running_loop().time() + self._seconds
            return await _in_time(
                end, backend.pgvector.subject, self._databases.check(principal.group_id, backend.pgvector)
            )
        config = backend.databricks
        assert config is not None
        repository = self._registered.stores.repository(backend)
        end = asyncio.get_running_loop().time() + self._seconds
        credential = f"credential for {config.workspace_url}"
        try:
            async with asyncio.timeout_at(end):
                await repository.check_credential()
        except Unavailable as error:
            return [Check(credential, "cannot be found now", f"{error.message}; {_LATER}")]
        except CoxswainError as error:
            return [Check(credential, "is missing or was refused", error.message)]
        except TimeoutError:
            return [Check(credential, "was not found in time", _LATER)]
        stored = [(kind, name) for kind, name in wanted_indexes(config) if kind not in backend.disabled_kinds]
        endpoint, *checked = await asyncio.gather(
            _in_time(end, f"endpoint {config.endpoint}", _check_endpoint(repository.resources, config.endpoint)),
            *(
                _in_time(end, f"index {name}", _check_index(repository, principal, kind, name, config.space.dimension))
                for kind, name in stored
            ),
        )
        checks = [*endpoint, *(check for found in checked for check in found)]
        usable = [index for index, found in zip(stored, checked, strict=True) if found[0].ok]
        if usable:
            checks += await _in_time(end, "scores", self._check_scores(repository, principal, backend, config, usable))
        for kind in MemoryKind:
            if kind not in config.indexes and kind not in backend.disabled_kinds:
                checks.append(
                    Check(
                        f"kind {kind.name}",
                        "has no index and is not disabled",
                        "name an index for it and call ProvisionMemoryBackend, or add it to disabled_kinds",
                    )
                )
        return checks

    async def _check_scores(
        self,
        repository: DatabricksVectorIndexRepository,
        principal: Principal,
        backend: MemoryBackend,
        config: DatabricksConfig,
        usable: Sequence[tuple[MemoryKind, str]],
    ) -> list[Check]:
        for kind, name in usable:
            try:
                scores = await measure(repository, name, Owner(kind, principal.group_id, None))
            except ScoreUnknown as unknown:
                return [
                    Check(
                        "scores",
                        f"of index {name} are computed in a way that is not known: {unknown}",
                        "do not rely on min_score and on similarities from this workspace, and report these figures",
                    )
                ]
            if scores is not None:
                if scores != config.scores:
                    await self._note(backend, scores)
                bounded = "bounds" if scores.bounds else "does not bound"
                finding = (
                    f"are {scores.formula.text} of unit vectors, as measured with a row of index {name}; the workspace "
                    f"{bounded} results by score_threshold"
                )
                return [Check("scores", finding)]
        return [Check("scores", "were not measured: no index has a row of your group with a vector of unit length")]

    async def _note(self, backend: MemoryBackend, scores: ScoreMeasure) -> None:
        async with self._registered.database.write() as connection:
            backends = MemoryBackendRepository(connection)
            await backends.hold(backend.group_id)
            present = await backends.get(backend.group_id, ResourceKey(id=backend.id))
            if present.databricks is not None:
                await backends.store(replace(present, databricks=replace(present.databricks, scores=scores)))
        self._registered.stores.forget(backend.group_id)


_LATER = "call VerifyMemoryBackend again; when it stays so, see whether the workspace answers"


async def _in_time(end: float, subject: str, checking: Coroutine[Any, Any, list[Check]]) -> list[Check]:
    """Return what checking finds, or that it failed or took too long."""
    try:
        async with asyncio.timeout_at(end):
            return await checking
    except CoxswainError as error:
        return [Check(subject, "cannot be used", error.message)]
    except TimeoutError:
        return [Check(subject, "was not checked in time", _LATER)]


async def _check_endpoint(resources: WorkspaceResources, name: str) -> list[Check]:
    try:
        endpoint = await resources.describe_endpoint()
    except CoxswainError as error:
        return [Check(f"endpoint {name}", "cannot be read", error.message)]
    subject = f"endpoint {name}"
    match endpoint.state:
        case ResourceState.READY:
            return [Check(subject, f"is {endpoint.detailed_state}")]
        case ResourceState.NOT_FOUND:
            return [Check(subject, "does not exist", "call ProvisionMemoryBackend, which creates it")]
        case ResourceState.PROVISIONING:
            remedy = "wait; ProvisionMemoryBackend shows the progress"
            return [Check(subject, f"is {endpoint.detailed_state}", remedy)]
        case _:
            remedy = "start it in the workspace, or remove it and call ProvisionMemoryBackend"
            return [Check(subject, f"is {endpoint.detailed_state}: {endpoint.message}", remedy)]


async def _check_index(
    repository: DatabricksVectorIndexRepository, principal: Principal, kind: MemoryKind, name: str, dimension: int
) -> list[Check]:
    subject = f"index {name}"
    description = await repository.resources.describe_index(name)
    if description.state is ResourceState.NOT_FOUND:
        return [Check(subject, "does not exist", "call ProvisionMemoryBackend, which creates it")]
    faults = index_faults(description, repository.resources.endpoint, kind, dimension)
    if faults:
        remedy = "remove it and call ProvisionMemoryBackend, or name another index in the backend"
        return [Check(subject, "; ".join(faults), remedy)]
    if description.state is not ResourceState.READY:
        remedy = "wait, then call VerifyMemoryBackend again"
        return [Check(subject, f"is {description.detailed_state}: {description.message}", remedy)]
    owner = Owner(kind, principal.group_id, None)
    # Reading one row and removing one that cannot exist need the same rights as real work, and change nothing.
    await repository.count_documents(name, owner, EVERYTHING, utc_now(), most=1)
    if not description.source_table:
        await repository.delete_records(name, [f"probe-{new_id()}"])
    return [Check(subject, _usable(description)), *_check_rows(name, await repository.probes.survey(name, owner))]


def _usable(description: IndexDescription) -> str:
    if description.source_table:
        return f"is {description.detailed_state}, follows the table {description.source_table}, can be read only"
    return f"is {description.detailed_state}, can be read and written"


def _check_rows(index: str, survey: Survey) -> list[Check]:
    if not survey.unreadable:
        return []
    looked_at = survey.readable + survey.unreadable
    among = f"of the {looked_at} that were looked at" if looked_at >= MAX_RESULTS else f"of {looked_at}"
    shown = survey.named[:_SHOWN_KEYS]
    named = "; ".join(f"{row.stored_id!r}: {row.why}" for row in shown)
    return [
        Check(
            f"rows of index {index}",
            f"{survey.unreadable} {among} cannot be read and are left out of answers ({named})",
            "write them anew where they come from, or remove them: DeleteIndexRecords with an empty memory_id and "
            "their primary keys as ids",
        )
    ]
