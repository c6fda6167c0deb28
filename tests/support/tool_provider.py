"""Tool providers over real gRPC, good ones and bad ones, and what a call of an adapter needs around it."""

import asyncio
import contextlib
import ipaddress
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from coxswain.tools.v1 import tool_provider_pb2 as pb
from coxswain.tools.v1 import tool_provider_service_pb2_grpc
from services.common.clock import utc_now
from services.common.egress import AddressPolicy
from services.common.identity.principal import CredentialKind, Principal, Role
from services.orchestrator.domain.tool_source import GrpcProvider, SourceKind, ToolSourceSpec
from services.orchestrator.tool_gateway.ports import SourceAnswer, SourceQuestion, ToolCallRequest

LOOPBACK = AddressPolicy([ipaddress.ip_network("127.0.0.0/8")], setting="COXSWAIN_TOOLS_EGRESS_ALLOWED_NETWORKS")
PUBLIC_ONLY = AddressPolicy(setting="COXSWAIN_TOOLS_EGRESS_ALLOWED_NETWORKS")

Deliver = Callable[["EmulatedProvider", pb.CallToolRequest, Any], AsyncIterator[pb.CallToolResponse]]


class EmulatedProvider(tool_provider_service_pb2_grpc.ToolProviderServicer):
    """A provider that counts what arrives and does what it is given; `work` is what one call does."""

    def __init__(
        self,
        *,
        deliver: Deliver | None = None,
        get_call: Callable[[pb.GetCallRequest, Any], Awaitable[pb.GetCallResponse]] | None = None,
        list_tools: Callable[[pb.ListToolsRequest, Any], Awaitable[pb.ListToolsResponse]] | None = None,
    ) -> None:
        self._deliver = deliver or good
        self._get_call = get_call
        self._list_tools = list_tools
        self.made: dict[str, int] = {}
        """By call id, how often its work was done."""
        self.delivered: list[pb.CallToolRequest] = []
        self.asked: list[pb.GetCallRequest] = []
        self.cancelled: list[str] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.arrived = asyncio.Event()
        """That a call was delivered."""
        self.ended = asyncio.Event()
        """That a delivery ended, however it did."""
        self.told = asyncio.Event()
        """That a call was cancelled."""

    def work(self, request: pb.CallToolRequest) -> None:
        """Do what must not be done twice."""
        self.made[request.call_id] = self.made.get(request.call_id, 0) + 1

    async def ListTools(self, request: pb.ListToolsRequest, context: Any) -> pb.ListToolsResponse:
        self.metadata.append(dict(context.invocation_metadata()))
        if self._list_tools is not None:
            return await self._list_tools(request, context)
        return pb.ListToolsResponse(tools=[provided_tool("pay")])

    async def CallTool(self, request: pb.CallToolRequest, context: Any) -> AsyncIterator[pb.CallToolResponse]:
        self.metadata.append(dict(context.invocation_metadata()))
        self.delivered.append(request)
        self.arrived.set()
        try:
            async for response in self._deliver(self, request, context):
                yield response
        finally:
            self.ended.set()

    async def GetCall(self, request: pb.GetCallRequest, context: Any) -> pb.GetCallResponse:
        self.asked.append(request)
        if self._get_call is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no calls are kept")
            raise AssertionError
        return await self._get_call(request, context)

    async def CancelCall(self, request: pb.CancelCallRequest, context: Any) -> pb.CancelCallResponse:
        self.cancelled.append(request.call_id)
        self.told.set()
        known = any(delivered.call_id == request.call_id for delivered in self.delivered)
        return pb.CancelCallResponse(state=pb.CALL_STATE_RUNNING if known else pb.CALL_STATE_FORGOTTEN)


def provided_tool(name: str, **fields: Any) -> pb.ProvidedTool:
    return pb.ProvidedTool(name=name, description=f"Does {name}.", input_schema_json='{"type": "object"}', **fields)


def accepted(*, repeated: bool = False) -> pb.CallToolResponse:
    return pb.CallToolResponse(accepted=pb.Accepted(repeated=repeated))


def result(text: str = "done", **fields: Any) -> pb.CallToolResponse:
    return pb.CallToolResponse(result=pb.CallResult(text=text, **fields))


async def good(
    provider: EmulatedProvider, request: pb.CallToolRequest, context: Any
) -> AsyncIterator[pb.CallToolResponse]:
    """Do the work and return the arguments as they came."""
    yield accepted()
    provider.work(request)
    yield result("done", structured_json=json.dumps({"arguments_json": request.arguments_json}))


@contextlib.asynccontextmanager
async def served(
    provider: tool_provider_service_pb2_grpc.ToolProviderServicer,
    *,
    directory: Path | None = None,
    address: str = "127.0.0.1:0",
) -> AsyncIterator[int]:
    """Serve a provider and give its port; with a directory, over TLS with the certificate in it."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 8 * 1024 * 1024)])
    tool_provider_service_pb2_grpc.add_ToolProviderServicer_to_server(provider, server)
    if directory is None:
        port = server.add_insecure_port(address)
    else:
        pair = ((directory / "tls.key").read_bytes(), (directory / "tls.pem").read_bytes())
        port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    await server.start()
    try:
        yield port
    finally:
        await server.stop(grace=None)


class RecordedProgress:
    """Keeps what a call says of itself, and answers its questions."""

    def __init__(self, *answers: SourceAnswer) -> None:
        self._answers = list(answers)
        self.sent_count = 0
        self.handles: list[str] = []
        self.texts: list[str] = []
        self.fractions: list[float | None] = []
        self.questions: list[SourceQuestion] = []
        self.goes_on = False
        self.progressed = asyncio.Event()

    async def sent(self) -> None:
        self.sent_count += 1

    async def handle(self, handle: str) -> None:
        self.handles.append(handle)

    async def progress(self, text: str, fraction: float | None = None) -> None:
        self.texts.append(text)
        self.fractions.append(fraction)
        self.progressed.set()

    async def ask(self, question: SourceQuestion, *, durable: bool = False) -> SourceAnswer:
        self.questions.append(question)
        return self._answers.pop(0)


class GivenHeaders:
    """Credentials of sources, by the name of the source; `after_refusal` are those that come when one was refused."""

    def __init__(self, *, after_refusal: Mapping[str, str] | None = None, **headers: Mapping[str, str]) -> None:
        self._headers = headers
        self._after_refusal = after_refusal
        self.urls: list[str] = []
        self.failure: Exception | None = None

    async def headers(self, source: ToolSourceSpec, principal: Principal, url: str) -> Mapping[str, str]:
        self.urls.append(url)
        if self.failure is not None:
            raise self.failure
        return self._headers.get(source.name, {})

    def forget(self, source: ToolSourceSpec, principal: Principal) -> None:
        if self._after_refusal is not None:
            self._headers[source.name] = self._after_refusal


def principal(group_id: str = "sales", subject: str = "issuer|ann") -> Principal:
    return Principal(
        subject=subject,
        group_id=group_id,
        role=Role.EDITOR,
        platform_admin=False,
        credential_kind=CredentialKind.USER,
        session_id="",
        execution_id="",
        expires_at=utc_now() + timedelta(hours=1),
    )


def source(address: str, *, name: str = "billing", plaintext: bool = True, **fields: Any) -> ToolSourceSpec:
    return ToolSourceSpec(
        name=name, kind=SourceKind.GRPC, endpoint=GrpcProvider(address=address, plaintext=plaintext), **fields
    )


def call_of(spec: ToolSourceSpec, call_id: str = "call-1", tool: str = "pay", **fields: Any) -> ToolCallRequest:
    values: dict[str, Any] = {
        "arguments": {"amount": 12},
        "principal": principal(),
        "execution_id": "execution-1",
        "idempotent": False,
        "labels": {"order": "17"},
    }
    return ToolCallRequest(call_id=call_id, source=spec, tool=tool, **values | fields)


def write_authority(directory: Path, *names: str) -> None:
    """Write ca.pem, and tls.pem and tls.key of a certificate it signed for the names."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])

    def certificate(subject: x509.Name, public: ec.EllipticCurvePublicKey, *, authority: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(utc_now() - timedelta(minutes=1))
            .not_valid_after(utc_now() + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(ca_key, hashes.SHA256())

    own_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "provider")])
    pem = serialization.Encoding.PEM
    (directory / "ca.pem").write_bytes(certificate(ca_name, ca_key.public_key(), authority=True).public_bytes(pem))
    (directory / "tls.pem").write_bytes(certificate(own_name, key.public_key(), authority=False).public_bytes(pem))
    (directory / "tls.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
