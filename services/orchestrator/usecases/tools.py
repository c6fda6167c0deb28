"""Use cases of ToolService."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Any

import structlog
from pydantic_core import to_json

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.db.idempotency import RequestKey, RequestRepository
from services.common.errors import (
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from services.common.identity.principal import Principal
from services.common.ids import new_id
from services.common.paging import Page, Pager
from services.common.resource_key import ResourceKey
from services.common.schema_checks.checker import SchemaChecker
from services.orchestrator import tables
from services.orchestrator.domain.crew import ToolSpec
from services.orchestrator.domain.tool import ResolvedTool
from services.orchestrator.domain.tool_source import (
    ApprovalRule,
    HttpApi,
    ListedTool,
    OnToolChange,
    OpenApiDocument,
    ToolSource,
)
from services.orchestrator.domain.tool_usage import ToolCallOutcome, ToolUsageRecord
from services.orchestrator.http_operations import READ_METHODS
from services.orchestrator.repositories.tool_sources import ToolSourceRepository
from services.orchestrator.repositories.tool_usage import ToolUsageRepository
from services.orchestrator.setting_faults import setting_faults
from services.orchestrator.tool_catalogue import TOOLS
from services.orchestrator.tool_identity import source_of, tool_of
from services.orchestrator.tool_resolver import EVERY_TOOL, built_in, of_source, resolve_tools
from services.orchestrator.usecases.operator_sources import OperatorSources
from services.orchestrator.usecases.ports import TestedCall, ToolGateway
from services.orchestrator.usecases.tool_listing import ToolListing

logger = structlog.get_logger(__name__)

_TOOLS = Pager("tools", key_types=(str, str))


@dataclass(frozen=True, slots=True)
class KnownTool:
    """A tool as it is shown to people: as crews get it, and what else is known of it."""

    resolved: ResolvedTool
    source: str
    """Empty: built in."""
    title: str = ""
    config_schema: Mapping[str, Any] | None = None
    output_schema: Mapping[str, Any] | None = None
    idempotent_hint: bool | None = None
    warnings: tuple[str, ...] = ()


class Tools:
    """Lists the tools of groups, and makes single calls of them."""

    def __init__(
        self,
        database: Database,
        listing: ToolListing,
        operators: OperatorSources,
        gateway: ToolGateway,
        checker: SchemaChecker,
    ) -> None:
        self._database = database
        self._listing = listing
        self._operators = operators
        self._gateway = gateway
        self._checker = checker

    async def page(self, principal: Principal, size: int, token: str, source: str) -> Page[KnownTool]:
        """Return a page of tools: built-in ones by name, then those of each source; with a `source` only its own.

        Raises:
            InvalidArgument: INVALID_PAGE_TOKEN.
            NotFound: the group does not have this source.
        """
        await self._operators.sync(principal.group_id)
        names = await self._source_names(principal.group_id)
        if source and source not in names:
            raise NotFound.by_key("tool source", ResourceKey(name=source))
        wanted = [source] if source else ["", *names]
        kept: dict[str, list[KnownTool]] = {}

        async def tools_of(name: str) -> list[KnownTool]:
            if name not in kept:
                # A page is read in portions, which go from one source to the next.
                kept.clear()
                kept[name] = await self._tools_of(principal.group_id, name)
            return kept[name]

        async def read(after: list[Any] | None, limit: int) -> list[KnownTool]:
            first, behind = after or ("", "")
            found: list[KnownTool] = []
            for name in (name for name in wanted if name >= first):
                tools = await tools_of(name)
                past = behind if after and name == first else None
                found += [tool for tool in tools if past is None or tool.resolved.name > past]
                if len(found) >= limit:
                    break
            return found[:limit]

        return await _TOOLS.page(
            size,
            token,
            {"group": principal.group_id, "source": source},
            read,
            lambda tool: [tool.source, tool.resolved.name],
            _size,
        )

    async def _source_names(self, group_id: str) -> list[str]:
        async with self._database.read() as connection:
            return await ToolSourceRepository(connection).names(group_id)

    async def _tools_of(self, group_id: str, source_name: str) -> list[KnownTool]:
        if not source_name:
            return list(_built_in_tools(await self._gateway.unavailable()))
        async with self._database.read() as connection:
            source = await ToolSourceRepository(connection).get(group_id, ResourceKey(name=source_name))
        if source is None:
            return []
        self._listing.refresh_for_reader(source)
        return sorted((_known(source, tool) for tool in source.tools), key=lambda tool: tool.resolved.name)

    async def test(
        self,
        principal: Principal,
        name: str,
        arguments: Mapping[str, Any],
        config: Mapping[str, Any],
        request: RequestKey | None,
        *,
        allow_side_effects: bool,
    ) -> TestedCall:
        """Make one call outside of an execution and wait for its end; a repeated `request` never makes it twice.

        Raises:
            NotFound, FailedPrecondition: there is no such tool, it cannot be used, or it may do harm and that is not
                allowed.
            InvalidArgument: its settings or arguments do not match their schemas.
            AlreadyExists: the request_id was used with another body.
            Unavailable: the gateway does not answer, and nothing was called.
        """
        tool, source = await self._callable(principal, ToolSpec(name, dict(config)))
        may_harm = not tool.idempotent or tool.approval is not ApprovalRule.NEVER or _acts(name, source)
        if may_harm and not allow_side_effects:
            raise FailedPrecondition(
                f'"{name}" may do something in the world, or asks a person first: set allow_side_effects '
                "to call it all the same",
                reason="TOOL_NOT_TESTABLE",
                metadata={"tool": name},
            )
        await self._refuse_arguments(principal, tool, arguments)
        call_id, repeated = await self._call_id(principal, request)
        begun = utc_now()
        try:
            tested = await self._gateway.test(call_id, tool, arguments, begun_before=repeated)
        except Unavailable as error:
            if error.reason != "TOOL_OUTCOME_UNKNOWN":
                raise
            tested = TestedCall(call_id, unknown=error.message)
        await self._store_usage(_usage(principal, tool, arguments, tested, begun), replayed=tested.replayed)
        return tested

    async def _store_usage(self, record: ToolUsageRecord, *, replayed: bool) -> None:
        try:
            async with self._database.write() as connection:
                usage = ToolUsageRepository(connection)
                await (usage.settle(record) if replayed else usage.put([record]))
        except Unavailable:
            # What has come of the call matters more to the caller.
            logger.warning("tool_usage_not_stored", group_id=record.group_id, tool=record.tool)

    async def _callable(self, principal: Principal, spec: ToolSpec) -> tuple[ResolvedTool, ToolSource | None]:
        if spec.name.endswith(f"/{EVERY_TOOL}"):
            raise InvalidArgument.field("name", "has to be the name of one tool")
        source = source_of(spec.name)
        sources = await self._listing.needed(principal.group_id, {source} - {""})
        (tool,) = resolve_tools([spec], sources)
        if tool.problem_reason == "TOOL_NOT_FOUND":
            raise NotFound(tool.problem, reason="TOOL_NOT_FOUND", metadata={"tool": spec.name})
        if tool.problem:
            raise FailedPrecondition(tool.problem, reason=tool.problem_reason, metadata={"tool": spec.name})
        if faults := setting_faults(spec, "config"):
            raise InvalidArgument.fields(faults)
        if tool.in_crew_process or tool.in_host:
            raise FailedPrecondition(
                f'"{spec.name}" works within an execution, and cannot be called by itself; to try it, give it to an '
                f"agent (tools: [{spec.name}]) whose model calls tools, and start the crew: the events of the "
                "execution show the call and its result",
                reason="TOOL_NOT_TESTABLE",
                metadata={"tool": spec.name},
            )
        return tool, sources.get(source)

    async def _refuse_arguments(self, principal: Principal, tool: ResolvedTool, arguments: Mapping[str, Any]) -> None:
        checked = await self._checker.check(principal.group_id, tool.arguments_schema, json.dumps(dict(arguments)))
        if checked.unchecked in {"process", "queue"}:
            raise Unavailable("the arguments cannot be checked now; try again", retry_after=1.0)
        if checked.unchecked:
            raise InvalidArgument.fields(
                [FieldViolation("arguments", f"could not be checked by the tool's schema ({checked.unchecked})")],
                reason="TOOL_ARGUMENTS",
            )
        if checked.violations:
            raise InvalidArgument.fields(
                [FieldViolation("arguments", violation) for violation in checked.violations], reason="TOOL_ARGUMENTS"
            )

    async def _call_id(self, principal: Principal, request: RequestKey | None) -> tuple[str, bool]:
        """Return the identity of a call, and whether it may have been made before."""
        if request is None:
            return f"test-{new_id()}", False
        parts = [principal.group_id, principal.subject, request.request_id]
        call_id = f"test-{sha256(to_json(parts)).hexdigest()[:48]}"
        async with self._database.write() as connection:
            repository = RequestRepository(connection, tables.requests)
            known = await repository.find(request)
            if known is None:
                await repository.claim(request, call_id)
        return call_id, known is not None


def _usage(
    principal: Principal, tool: ResolvedTool, arguments: Mapping[str, Any], tested: TestedCall, begun: datetime
) -> ToolUsageRecord:
    if tested.unknown:
        outcome = ToolCallOutcome.UNKNOWN
    elif tested.failure_reason or tested.is_error:
        outcome = ToolCallOutcome.of_failure(tested.failure_reason)
    else:
        outcome = ToolCallOutcome.OK
    return ToolUsageRecord(
        id=tested.call_id,
        group_id=principal.group_id,
        subject=principal.subject,
        source=source_of(tool.name),
        tool=tool.name,
        called_at=begun,
        outcome=outcome,
        seconds=(utc_now() - begun).total_seconds(),
        argument_bytes=len(to_json(dict(arguments))),
        result_bytes=len((tested.structured_json or tested.text).encode()),
        cost=0.0 if tested.failure_reason and not tested.made else tool.cost,
    )


def _acts(name: str, source: ToolSource | None) -> bool:
    """Return whether a tool that may be called twice does something all the same, by a key that its source knows."""
    if source is None:
        return name in TOOLS and TOOLS[name].acts
    endpoint = source.spec.endpoint
    if isinstance(endpoint, HttpApi):
        return any(one.method not in READ_METHODS for one in endpoint.operations if one.name == tool_of(name))
    # Which of its operations only read is known to the gateway alone.
    return isinstance(endpoint, OpenApiDocument) and bool(endpoint.idempotency_header)


def _built_in_tools(unavailable: Mapping[str, str]) -> Iterator[KnownTool]:
    for tool in TOOLS.values():
        resolved = replace(built_in(tool, ToolSpec(tool.name)), problem=unavailable.get(tool.name, ""))
        yield KnownTool(resolved, "", config_schema=tool.config_schema)


def _known(source: ToolSource, listed: ListedTool) -> KnownTool:
    name = f"{source.spec.name}/{listed.name}"
    (tool,) = resolve_tools([ToolSpec(name)], {source.spec.name: source})
    warnings = list(listed.warnings)
    change = next((change for change in source.changes if change.tool == listed.name), None)
    if change is not None and source.spec.on_change is not OnToolChange.ACCEPT:
        warnings.append(f"it was {change.kind.lower()} at {change.at:%Y-%m-%d %H:%M} UTC, which nobody has accepted")
    # What it is like is of interest also where it cannot be used.
    shown = replace(of_source(source, listed, ToolSpec(name)), problem_reason=tool.problem_reason, problem=tool.problem)
    return KnownTool(
        shown,
        source.spec.name,
        title=listed.title,
        output_schema=listed.output_schema,
        idempotent_hint=listed.idempotent_hint,
        warnings=tuple(warnings),
    )


def _size(tool: KnownTool) -> int:
    return len(to_json([tool.resolved.description, tool.resolved.arguments_schema, tool.output_schema])) + 512
