"""What is wrong with a source of tools by itself: addresses, headers, policies, expressions, schemas."""

import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from services.common.egress import AddressPolicy, origin_of
from services.common.errors import FieldViolation, PermissionDenied
from services.orchestrator.domain.tool_source import (
    A2AAgent,
    ApprovalRule,
    AuthKind,
    GrpcProvider,
    HttpApi,
    LocalCommand,
    McpServer,
    OpenApiDocument,
    PythonTools,
    SourceKind,
    ToolPolicy,
    ToolSourceSpec,
)
from services.orchestrator.expressions import BadExpression, Expression
from services.orchestrator.http_operations import check_http_api, is_of_caller_or_connection, overrides_method
from services.orchestrator.schemas.references import reference_error
from services.orchestrator.schemas.tool_schemas import schema_fault

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_TEXT = re.compile(r"[\x20-\x7e\x80-\xff\t]*")
_SECRET_NAME = re.compile(r"[a-z0-9]+([/._-][a-z0-9]+)*")
_OF_PROTOCOLS = ("x-coxswain-", "mcp-", "grpc-", ":")
"""Beginnings of headers that the gateway sets itself."""
# A secret may go in these, although they say who calls.
_FOR_SECRETS = frozenset({"authorization", "cookie", "proxy-authorization"})
_OPERATORS_ONLY: Mapping[SourceKind, str] = {SourceKind.MCP_COMMAND: "mcp_command", SourceKind.PYTHON: "python"}
_DEFAULT_TIMEOUT, _DEFAULT_MAX_TIMEOUT = 60.0, 900.0


def source_faults(spec: ToolSourceSpec, addresses: AddressPolicy, *, from_operator: bool) -> list[FieldViolation]:
    """Return everything that keeps a source from being used, with the paths of a request's `spec`.

    `from_operator` allows what only an operator may declare. It parses expressions and schemas: not in an event loop.
    """
    return [
        *_endpoint(spec, addresses, from_operator=from_operator),
        *_auth(spec, addresses),
        *_headers(spec),
        *_patterns(spec),
        *_policies(spec.policies),
        *_share(spec),
    ]


def _endpoint(spec: ToolSourceSpec, addresses: AddressPolicy, *, from_operator: bool) -> Iterator[FieldViolation]:
    if spec.kind in _OPERATORS_ONLY and not from_operator:
        yield FieldViolation(
            f"spec.{_OPERATORS_ONLY[spec.kind]}",
            "can only be declared by the operator of this installation (COXSWAIN_TOOLS_SOURCES_FILE)",
        )
        return
    match spec.endpoint:
        case McpServer(url=url):
            yield from _address("spec.mcp.url", url, addresses)
        case GrpcProvider(address=address, plaintext=plaintext):
            yield from _target("spec.grpc.address", address, addresses, plaintext=plaintext)
        case A2AAgent() as agent:
            yield from _agent(spec, agent, addresses)
        case OpenApiDocument() as document:
            yield from _openapi(document, addresses)
        case HttpApi() as api:
            yield from _http(api, addresses)
        case LocalCommand(program=program):
            if not program.strip():
                yield FieldViolation("spec.mcp_command.program", "has to name a program")
        case PythonTools(entry_point=entry_point):
            if not entry_point.strip():
                yield FieldViolation(
                    "spec.python.entry_point", 'has to name an entry point of the group "coxswain.tools"'
                )


def _address(path: str, url: str, addresses: AddressPolicy, *, is_base: bool = False) -> Iterator[FieldViolation]:
    """Yield what is wrong with an address. A name is resolved and checked where the connection is made."""
    parts = urlsplit(url) if "://" in url and origin_of(url) else None
    if parts is None or parts.fragment or not url.isprintable() or (is_base and parts.query):
        query = ", without a query" if is_base else ""
        yield FieldViolation(
            path, f"write it as https://HOST or https://HOST:PORT and a path, without a user name{query}"
        )
        return
    if parts.scheme == "http" and not addresses.permits_plain:
        yield FieldViolation(path, addresses.refused(origin_of(url) or "").message)
        return
    try:
        addresses.check_literal(url)
    except PermissionDenied as refusal:
        yield FieldViolation(path, refusal.message)


def _target(path: str, address: str, addresses: AddressPolicy, *, plaintext: bool) -> Iterator[FieldViolation]:
    scheme = "http" if plaintext else "https"
    url = f"{scheme}://{address}"
    parts = urlsplit(url) if "/" not in address and origin_of(url) else None
    if parts is None or parts.port is None or parts.query or parts.fragment:
        yield FieldViolation(path, "write it as HOST:PORT, as in tools.example.com:443")
        return
    yield from _address(path, url, addresses)


def _agent(spec: ToolSourceSpec, agent: A2AAgent, addresses: AddressPolicy) -> Iterator[FieldViolation]:
    if agent.card_url:
        yield from _address("spec.a2a.card_url", agent.card_url, addresses)
    if agent.address:
        yield from _target("spec.a2a.address", agent.address, addresses, plaintext=agent.plaintext)
    elif not agent.card_url:
        yield FieldViolation("spec.a2a", "has to say where the agent is: set card_url, address or both")
    elif spec.auth.kind is not AuthKind.NONE:
        yield FieldViolation(
            "spec.a2a.address",
            "is required beside auth: a credential is sent where the source says, and not where a card says",
        )
    if agent.plaintext and spec.auth.kind is not AuthKind.NONE:
        yield FieldViolation("spec.a2a.plaintext", "has to be left out with auth: a credential is sent over TLS only")
    if not agent.tenant.isprintable():
        yield FieldViolation("spec.a2a.tenant", "must not hold line breaks or other control characters")


def _openapi(document: OpenApiDocument, addresses: AddressPolicy) -> Iterator[FieldViolation]:
    yield from _address("spec.openapi.base_url", document.base_url, addresses, is_base=True)
    if document.url:
        faults = list(_address("spec.openapi.url", document.url, addresses))
        yield from faults
        if not faults and origin_of(document.url) != origin_of(document.base_url):
            yield FieldViolation(
                "spec.openapi.url", "has to be at the origin of base_url; send it as `document` instead"
            )
    yield from _header_name("spec.openapi.idempotency_header", document.idempotency_header)


def _http(api: HttpApi, addresses: AddressPolicy) -> Iterator[FieldViolation]:
    faults = list(_address("spec.http.base_url", api.base_url, addresses, is_base=True))
    found = {fault.field for fault in faults}
    yield from faults
    yield from (fault for fault in check_http_api(api) if fault.field not in found)
    for index, operation in enumerate(api.operations):
        path = f"spec.http.operations[{index}]"
        yield from _header_name(f"{path}.idempotency_header", operation.idempotency_header)
        if fault := schema_fault(operation.arguments_schema) or reference_error(operation.arguments_schema):
            yield FieldViolation(f"{path}.arguments_schema", fault)


def _auth(spec: ToolSourceSpec, addresses: AddressPolicy) -> Iterator[FieldViolation]:
    auth = spec.auth
    if auth.kind is AuthKind.NONE:
        return
    field = f"spec.{auth.kind.lower()}"
    if spec.kind in _OPERATORS_ONLY:
        yield FieldViolation(field, "has no effect: the source runs on this installation's own machines; leave it out")
        return
    if auth.kind in (AuthKind.SECRET, AuthKind.OAUTH_CLIENT) and not _SECRET_NAME.fullmatch(auth.secret_name):
        yield FieldViolation(
            f"{field}.secret_name", "must be lower-case words and digits joined by /, -, _ or ., as in tools/billing"
        )
    if auth.kind is AuthKind.SECRET:
        name = auth.header.lower()
        if not _TOKEN.fullmatch(name) or (_is_authority(name) and name not in _FOR_SECRETS):
            yield FieldViolation(f"{field}.header", f'"{auth.header}" is not a header that can carry a secret')
        if not _HEADER_TEXT.fullmatch(auth.prefix):
            yield FieldViolation(f"{field}.prefix", "must not hold line breaks or other control characters")
    if auth.token_url:
        yield from _address(f"{field}.token_url", auth.token_url, addresses)
    if auth.resource and (origin_of(auth.resource) is None or "://" not in auth.resource):
        yield FieldViolation(f"{field}.resource", "must be an address, as in https://api.example.com")


def _headers(spec: ToolSourceSpec) -> Iterator[FieldViolation]:
    seen: set[str] = set()
    carries = spec.auth.header.lower() if spec.auth.kind is AuthKind.SECRET else ""
    for name, value in spec.headers.items():
        path, lower = f'spec.headers["{name}"]', name.lower()
        if not _TOKEN.fullmatch(name):
            yield FieldViolation(path, "is not the name of a header")
        elif _is_authority(lower) or lower == carries or (spec.kind is SourceKind.A2A and lower.startswith("a2a-")):
            yield FieldViolation(
                path, "cannot be set here: it says who calls, or belongs to the connection; secrets go into `secret`"
            )
        elif lower in seen:
            yield FieldViolation(path, "is given twice, in another spelling")
        seen.add(lower)
        if not _HEADER_TEXT.fullmatch(value):
            yield FieldViolation(path, "must be text of Latin letters without line breaks or other control characters")


def _header_name(path: str, name: str) -> Iterator[FieldViolation]:
    if name and (not _TOKEN.fullmatch(name) or _is_authority(name.lower())):
        yield FieldViolation(path, f'"{name}" is not a header that can carry the id of a call; use Idempotency-Key')


def _is_authority(lower: str) -> bool:
    return (
        is_of_caller_or_connection(lower)
        or lower == "set-cookie"
        or lower.startswith(_OF_PROTOCOLS)
        or overrides_method(lower)
    )


def _patterns(spec: ToolSourceSpec) -> Iterator[FieldViolation]:
    for field in ("allowed_tools", "denied_tools"):
        for index, pattern in enumerate(getattr(spec, field)):
            if not pattern.isprintable():
                yield FieldViolation(f"spec.{field}[{index}]", "must not hold line breaks or other control characters")


def _policies(policies: tuple[ToolPolicy, ...]) -> Iterator[FieldViolation]:
    # Each value of a tool is the first one that a policy gives: they may stand in different ones.
    has_deadline = any(policy.approval_deadline is not None for policy in policies)
    for index, policy in enumerate(policies):
        path = f"spec.policies[{index}]"
        if not policy.tools.isprintable():
            yield FieldViolation(f"{path}.tools", "must not hold line breaks or other control characters")
        timeout = policy.timeout or _DEFAULT_TIMEOUT
        longest = policy.max_timeout or _DEFAULT_MAX_TIMEOUT
        if (policy.timeout is not None or policy.max_timeout is not None) and longest < timeout:
            yield FieldViolation(
                f"{path}.max_timeout", f"is {longest:g} s, and has to be at least the timeout, {timeout:g} s"
            )
        if policy.approval_on_deadline is not None and not has_deadline:
            yield FieldViolation(
                f"{path}.approval_on_deadline", "has no effect: no policy of the source sets approval_deadline"
            )
        yield from _approval(path, policy)


def _approval(path: str, policy: ToolPolicy) -> Iterator[FieldViolation]:
    condition = f"{path}.approval_condition"
    if policy.approval is not ApprovalRule.WHEN:
        if policy.approval_condition:
            yield FieldViolation(condition, "has no effect: set approval to WHEN or leave it out")
        return
    if not policy.approval_condition:
        yield FieldViolation(condition, 'is missing; approval is WHEN. Example: "arguments.amount > 100"')
        return
    try:
        expression = Expression(policy.approval_condition)
    except BadExpression as error:
        yield FieldViolation(condition, str(error))
        return
    unknown = sorted(expression.names() - {"arguments"})
    if unknown:
        yield FieldViolation(condition, f"names {', '.join(unknown)}; there is arguments.NAME")


def _share(spec: ToolSourceSpec) -> Iterator[FieldViolation]:
    if spec.share and spec.kind not in (SourceKind.GRPC, SourceKind.PYTHON):
        yield FieldViolation(
            "spec.share", "has no effect: only gRPC providers and Python tools are told of executions; leave it out"
        )
