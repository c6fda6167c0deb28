"""How far the way to the tools of a source leads: part of ToolSourceService."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum

from services.common.egress import AddressPolicy
from services.common.errors import CoxswainError
from services.common.identity.principal import Principal
from services.common.resource_key import ResourceKey
from services.orchestrator.domain.tool_source import (
    A2AAgent,
    AuthKind,
    GrpcProvider,
    HttpApi,
    McpEra,
    McpServer,
    OpenApiDocument,
    ToolSourceSpec,
)
from services.orchestrator.usecases.ports import ToolGateway
from services.orchestrator.usecases.tool_lists import clean_list
from services.orchestrator.usecases.tool_source_faults import source_faults
from services.orchestrator.usecases.tool_sources import ToolSources


class CheckStep(StrEnum):
    """A part of the way to the tools of a source; the names are those of `CheckToolSourceResponse.Step`."""

    ADDRESS = "ADDRESS"
    TLS = "TLS"
    CREDENTIAL = "CREDENTIAL"
    ERA = "ERA"
    LIST = "LIST"


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """How one step of a check has ended."""

    step: CheckStep
    ok: bool
    message: str


class ToolSourceChecks:
    """Tries sources, step by step."""

    def __init__(self, sources: ToolSources, gateway: ToolGateway, addresses: AddressPolicy) -> None:
        self._sources = sources
        self._gateway = gateway
        self._addresses = addresses

    async def check(self, principal: Principal, key: ResourceKey) -> AsyncIterator[StepOutcome]:
        """Yield how each step on the way to the tools of a source ends, up to the first that fails. Raises NotFound."""
        source = await self._sources.stored(principal, key)
        faults = await asyncio.to_thread(
            source_faults, source.spec, self._addresses, from_operator=source.from_operator
        )
        if faults:
            fault = faults[0]
            yield StepOutcome(CheckStep.ADDRESS, ok=False, message=f"{fault.field}: {fault.description}")
            return
        try:
            listed = await self._gateway.list_tools(source.id)
        except CoxswainError as error:
            failed = _failed_step(error)
            # Only the gateway knows how far it came.
            passed = _steps(source.spec) if "step" in error.metadata else []
            for step in itertools.takewhile(lambda step: step is not failed, passed):
                yield StepOutcome(step, ok=True, message=_said(step, source.spec))
            yield StepOutcome(failed, ok=False, message=error.message)
            return
        for step in _steps(source.spec):
            yield StepOutcome(step, ok=True, message=_said(step, source.spec))
        found = await asyncio.to_thread(clean_list, listed)
        warnings = f"; {'; '.join(found.warnings)}" if found.warnings else ""
        yield StepOutcome(CheckStep.LIST, ok=True, message=f"{len(found.tools)} tools{warnings}")


def _steps(spec: ToolSourceSpec) -> list[CheckStep]:
    """Return the steps before the list, as far as a source has them."""
    remote = isinstance(spec.endpoint, McpServer | GrpcProvider | A2AAgent) or (
        isinstance(spec.endpoint, OpenApiDocument) and bool(spec.endpoint.url)
    )
    if not remote:
        written = isinstance(spec.endpoint, HttpApi | OpenApiDocument)
        return [CheckStep.ADDRESS, CheckStep.CREDENTIAL] if written else []
    era = [CheckStep.ERA] if isinstance(spec.endpoint, McpServer) else []
    return [CheckStep.ADDRESS, CheckStep.TLS, CheckStep.CREDENTIAL, *era]


def _said(step: CheckStep, spec: ToolSourceSpec) -> str:
    asked = not isinstance(spec.endpoint, HttpApi | OpenApiDocument) or bool(getattr(spec.endpoint, "url", ""))
    match step:
        case CheckStep.TLS if _is_plain(spec):
            return "the connection is not encrypted, as the operator allows for its network"
        case CheckStep.TLS:
            return "the connection is encrypted, and the certificate is trusted"
        case CheckStep.CREDENTIAL if spec.auth.kind is AuthKind.NONE:
            return "none is sent"
        case CheckStep.CREDENTIAL if spec.auth.kind in {AuthKind.CALLER, AuthKind.DATABRICKS}:
            return f"it is that of whoever the execution acts for ({spec.auth.kind})"
        case CheckStep.CREDENTIAL if not asked:
            return f"there is one ({spec.auth.kind}); whether the source takes it shows with the first call"
        case CheckStep.CREDENTIAL:
            return f"the source takes the credential ({spec.auth.kind})"
        case CheckStep.ERA if isinstance(spec.endpoint, McpServer) and spec.endpoint.era is not McpEra.AUTO:
            return f"the server speaks the {spec.endpoint.era} edition"
        case CheckStep.ERA:
            return "the server speaks an edition that is known"
        case _ if not asked:
            return "the address may be called from here; whether it answers shows with the first call"
        case _:
            return "the address may be called from here, and leads to a server"


def _is_plain(spec: ToolSourceSpec) -> bool:
    match spec.endpoint:
        case GrpcProvider(plaintext=plaintext) | A2AAgent(plaintext=plaintext):
            return plaintext
        case McpServer(url=url) | OpenApiDocument(url=url):
            return url.lower().startswith("http://")
        case _:
            return False


def _failed_step(error: CoxswainError) -> CheckStep:
    """Return where on its way a listing failed; the gateway may say so itself."""
    said = error.metadata.get("step", "").upper()
    if said in CheckStep.__members__:
        return CheckStep[said]
    if error.reason.startswith("CREDENTIAL") or error.reason in {"KEY_UNAVAILABLE", "UPSTREAM_CREDENTIAL_REJECTED"}:
        return CheckStep.CREDENTIAL
    return CheckStep.ADDRESS if error.reason == "DESTINATION_NOT_ALLOWED" else CheckStep.LIST
