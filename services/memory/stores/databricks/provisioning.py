"""Creating what a backend needs, and waiting until it can be used."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from services.common.errors import CoxswainError, FailedPrecondition, Unavailable
from services.memory.domain.backends import DatabricksConfig
from services.memory.domain.records import MemoryKind
from services.memory.rows.columns import DatabricksIndexSchemas
from services.memory.stores.databricks.descriptions import IndexDescription, ResourceState
from services.memory.stores.databricks.resources import WorkspaceResources
from services.memory.stores.databricks.upstream_errors import AlreadyThere, NameReserved

logger = structlog.get_logger(__name__)
_FAILED_STATES = (ResourceState.FAILED, ResourceState.OFFLINE)


@dataclass(frozen=True, slots=True)
class ProvisionLimits:
    """How often to look, and how long to wait in all."""

    poll_seconds: float
    total_seconds: float


async def make_index(
    resources: WorkspaceResources,
    index: str,
    kind: MemoryKind,
    dimension: int,
    limits: ProvisionLimits,
    made: list[str],
) -> AsyncIterator[str]:
    """Make an index, and yield what is waited for until it is ready; one that is there already is taken as it is.

    Its name is put into `made` when it was made.

    Raises:
        FailedPrecondition: what is there does not fit, or it failed upstream.
        Unavailable: it took longer than `limits`; calling again continues.
    """
    waited = 0.0
    while True:
        try:
            await resources.create_index(index, kind, dimension)
            made.append(index)
            break
        except AlreadyThere:
            break
        except NameReserved:
            yield f"waiting until the name {index} is free again"
            waited = await _wait(index, waited, limits)
    while True:
        description = await resources.describe_index(index)
        if description.state is ResourceState.READY:
            faults = index_faults(description, resources.endpoint, kind, dimension)
            if faults:
                raise _unusable(index, "; ".join(faults))
            return
        if description.state in _FAILED_STATES:
            raise _unusable(index, f"it is {description.detailed_state}: {description.message}")
        yield f"waiting for index {index} ({description.detailed_state or description.state.name})"
        waited = await _wait(index, waited, limits)


async def make_endpoint(
    resources: WorkspaceResources,
    name: str,
    limits: ProvisionLimits,
    made: Callable[[], Awaitable[None]],
    target_qps: int | None = None,
) -> AsyncIterator[str]:
    """Make the endpoint unless it is there, and yield what is waited for; `made` is called at once when it was made.

    `target_qps` is how many queries a second it shall be made for.

    Raises:
        FailedPrecondition: it failed upstream, or is switched off.
        Unavailable: it took longer than `limits`; calling again continues.
    """
    waited = 0.0
    while True:
        description = await resources.describe_endpoint()
        match description.state:
            case ResourceState.READY:
                return
            case ResourceState.NOT_FOUND:
                yield f"making endpoint {name}"
                try:
                    await resources.create_endpoint(storage_optimized=False, target_qps=target_qps)
                    await made()
                except AlreadyThere:
                    logger.info("endpoint_made_meanwhile", endpoint=name)
            case ResourceState.FAILED | ResourceState.OFFLINE:
                raise _unusable(name, f"the endpoint is {description.detailed_state}: {description.message}")
            case _:
                yield f"waiting for endpoint {name} ({description.detailed_state})"
                waited = await _wait(name, waited, limits)


async def remove_made(resources: WorkspaceResources, indexes: Sequence[str], endpoints: Sequence[str]) -> list[str]:
    """Remove what was made, as far as that works, and return what is left."""
    left: list[str] = []
    for index in indexes:
        try:
            await resources.delete_index(index)
        except CoxswainError:
            left.append(f"index {index}")
    for endpoint in endpoints:
        try:
            await resources.delete_endpoint()
        except CoxswainError:
            left.append(f"endpoint {endpoint}")
    return left


def wanted_indexes(config: DatabricksConfig) -> list[tuple[MemoryKind, str]]:
    """Return the indexes a backend names, by kind."""
    names = [(kind, config.index_name(kind)) for kind in MemoryKind if kind in config.indexes]
    return [(kind, name) for kind, name in names if name is not None]


def index_faults(description: IndexDescription, endpoint: str, kind: MemoryKind, dimension: int) -> list[str]:
    """Return what keeps an index from holding a kind for a backend with this endpoint and dimension."""
    if not description.dimension:
        return ["its vectors are not given by its rows: only such indexes can be used"]
    faults = []
    if description.endpoint not in ("", endpoint):
        faults.append(f"it is served by the endpoint {description.endpoint}, the backend names {endpoint}")
    if description.primary_key not in ("", DatabricksIndexSchemas.PRIMARY_KEY):
        faults.append(f"its primary key is {description.primary_key}, not {DatabricksIndexSchemas.PRIMARY_KEY}")
    if description.vector_column not in ("", DatabricksIndexSchemas.VECTOR_COLUMN):
        faults.append(f"its vectors are in {description.vector_column}, not {DatabricksIndexSchemas.VECTOR_COLUMN}")
    if description.dimension != dimension:
        faults.append(f"its vectors have {description.dimension} components, the backend's {dimension}")
    if description.columns is not None:
        missing = [name for name in DatabricksIndexSchemas.get_schema(kind) if name not in description.columns]
        if missing:
            faults.append(f"it lacks the columns {', '.join(missing)}")
    return faults


async def _wait(subject: str, waited: float, limits: ProvisionLimits) -> float:
    if waited >= limits.total_seconds:
        raise Unavailable(
            f"{subject} is not ready after {waited:.0f} s; call again to continue waiting",
            reason="STORE_FAILED",
            metadata={"http_status": "200", "error_code": ""},
            retry_after=limits.poll_seconds,
        )
    await asyncio.sleep(limits.poll_seconds)
    return waited + limits.poll_seconds


def _unusable(subject: str, why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"{subject} cannot be used: {why}", reason="INDEX_NOT_READY", metadata={"index": subject, "state": "FAILED"}
    )
