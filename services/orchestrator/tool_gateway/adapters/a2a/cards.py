"""Agent cards: the tools that an agent's skills are, and where it is called."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from a2a.types import a2a_pb2 as pb
from google.protobuf import json_format

from services.common.egress import origin_of
from services.common.errors import InvalidArgument
from services.common.grpc.json_values import from_struct
from services.orchestrator.domain.tool_source import A2AAgent, ListedTool
from services.orchestrator.tool_gateway.adapters.foreign import (
    MAX_SCHEMA_BYTES,
    ForeignTextError,
    parse_object,
    shown,
)
from services.orchestrator.tool_identity import digest_of

MAX_CARD_BYTES = 1024 * 1024
MAX_SKILLS = 512
VERSION_03 = "0.3"
_MAX_DESCRIPTION_BYTES = 4096
_MAX_TITLE_BYTES = 256
_MAX_EXAMPLES = 8
_MAX_NAME = 128
_MAX_TENANT = 256
_MAX_LIST_BYTES = 8 * 1024 * 1024
"""Of the tools of an agent, each of which has the schema of the card in it."""
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")
_WHOLE_AGENT = "send_message"
"""Name of the tool of an agent whose card lists no skill."""
_TEXT = "text/"
_JSON = "application/json"
_TAKEN = (
    "name", "description", "version", "supportedInterfaces", "defaultInputModes", "defaultOutputModes", "skills",
    "capabilities",
)  # fmt: skip
_TAKEN_OF_SKILLS = ("id", "name", "description", "tags", "examples", "inputModes", "outputModes")


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent as its card describes it."""

    address: str
    """HOST:PORT that it is called at."""
    tenant: str
    streaming: bool
    """Whether its tasks can be followed by a stream."""
    has_extended_card: bool
    tools: tuple[ListedTool, ...]
    skills: Mapping[str, str]
    """The id of the skill that each tool is; none of an agent that lists no skill."""
    version: str = ""
    """Of A2A that it is called over; empty means 1.0."""


def card_from_json(text: str) -> pb.AgentCard:
    """Return the card of a document of version 1.0 or 0.3, without what is not needed here.

    Raises:
        ForeignTextError: it is no agent card.
    """
    document = parse_object(text, "the agent card", max_bytes=MAX_CARD_BYTES)
    if not document.get("name"):
        raise ForeignTextError("the document is no agent card: it has no name")
    if "supportedInterfaces" not in document and "url" in document:
        document = _from_03(document)
    taken = {name: document[name] for name in _TAKEN if document.get(name) is not None}
    capabilities = taken.get("capabilities")
    if isinstance(capabilities, dict):
        # Whatever else there is may have another shape in another version.
        names = ("streaming", "extensions", "extendedAgentCard")
        taken["capabilities"] = {name: capabilities[name] for name in names if capabilities.get(name) is not None}
    skills = taken.get("skills")
    if isinstance(skills, list):
        taken["skills"] = [
            {name: skill[name] for name in _TAKEN_OF_SKILLS if skill.get(name) is not None}
            for skill in skills
            if isinstance(skill, dict)
        ]
    try:
        return json_format.ParseDict(taken, pb.AgentCard(), ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError, TypeError, AttributeError, RecursionError):
        raise ForeignTextError("the document is no agent card of A2A 1.0 or 0.3") from None


def _from_03(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card of 0.3 with its interfaces as 1.0 has them."""
    version = document.get("protocolVersion", "")
    others = document.get("additionalInterfaces")
    named = [{"url": document["url"], "transport": document.get("preferredTransport", "JSONRPC")}]
    named += [one for one in others if isinstance(one, dict)] if isinstance(others, list) else []
    interfaces = [
        {"url": one.get("url"), "protocolBinding": one.get("transport"), "protocolVersion": version} for one in named
    ]
    capabilities = document.get("capabilities")
    if isinstance(capabilities, dict) and document.get("supportsAuthenticatedExtendedCard") is True:
        capabilities = capabilities | {"extendedAgentCard": True}
    return {**document, "supportedInterfaces": interfaces, "capabilities": capabilities}


def agent_of(card: pb.AgentCard, endpoint: A2AAgent, public: Agent | None = None) -> Agent:
    """Return the agent of a card, called where the source says or else where the card does.

    For an extended card `public` is the agent as it was called for that: it names no interface of gRPC perhaps.

    Raises:
        ForeignTextError: the card names no interface that can be called, has skills that cannot be told apart, or is
            too large.
    """
    if card.ByteSize() > MAX_CARD_BYTES:
        raise ForeignTextError(f"the agent card is larger than {MAX_CARD_BYTES} bytes")
    interface = _interface(card, endpoint, public)
    address = endpoint.address or host_and_port(interface.url)
    tenant = endpoint.tenant or interface.tenant
    if len(tenant) > _MAX_TENANT or not tenant.isprintable():
        raise ForeignTextError("the tenant in the agent card is no name")
    if len(card.skills) > MAX_SKILLS:
        raise ForeignTextError(f"the agent card lists more than {MAX_SKILLS} skills")
    digest = digest_of([address, tenant])
    call = f"{'http' if endpoint.plaintext else 'https'}://{address}"
    schema = _data_schema(card)
    size = 0
    tools: dict[str, ListedTool] = {}
    skills: dict[str, str] = {}
    for skill in card.skills or [pb.AgentSkill(name=card.name, description=card.description)]:
        tool = replace(_listed(skill, card, schema), call_digest=digest, call=call)
        if tool.name in tools:
            raise ForeignTextError(f'two skills of the agent card would be the tool "{tool.name}"')
        size += len(tool.description.encode()) + len(json.dumps(tool.arguments_schema, ensure_ascii=False).encode())
        if size > _MAX_LIST_BYTES:
            raise ForeignTextError(f"the tools of the agent card are larger than {_MAX_LIST_BYTES} bytes")
        tools[tool.name] = tool
        if skill.id:
            skills[tool.name] = skill.id
    return Agent(
        address,
        tenant,
        card.capabilities.streaming,
        card.capabilities.extended_agent_card,
        tuple(tools.values()),
        skills,
        VERSION_03 if _is_03(interface) else "",
    )


def _interface(card: pb.AgentCard, endpoint: A2AAgent, public: Agent | None) -> pb.AgentInterface:
    """Return the interface that is called, of 1.0 where there is one.

    Where the source alone says where the agent is, it has the version of the card's interfaces and no more.
    """
    of_grpc = [one for one in card.supported_interfaces if one.protocol_binding.upper() == "GRPC"]
    usable = [one for one in of_grpc if one.protocol_version.partition(".")[0] == "1"]
    usable += [one for one in of_grpc if _is_03(one)]
    if endpoint.address:
        same_address = (one for one in usable if _is_at(one.url, endpoint.address))
        speaks_03 = bool(card.supported_interfaces) and all(map(_is_03, card.supported_interfaces))
        return next(same_address, pb.AgentInterface(protocol_version=VERSION_03 if speaks_03 else ""))
    if usable:
        return usable[0]
    if public is not None:
        return pb.AgentInterface(url=public.address, tenant=public.tenant, protocol_version=public.version)
    found = sorted({f"{one.protocol_binding} {one.protocol_version}".strip() for one in card.supported_interfaces})
    raise ForeignTextError(
        f"the agent is not called over A2A 1.0 or 0.3 by gRPC, which alone are supported; its card names "
        f"{shown(', '.join(found), 200) or 'no interface'}"
    )


def _is_03(interface: pb.AgentInterface) -> bool:
    return interface.protocol_version == VERSION_03 or interface.protocol_version.startswith(f"{VERSION_03}.")


def _is_at(url: str, address: str) -> bool:
    try:
        return host_and_port(url) == address
    except ForeignTextError:
        return False


def host_and_port(url: str) -> str:
    """Return host and port of the address of a gRPC interface, which may have a scheme.

    Raises:
        ForeignTextError: it is no such address.
    """
    scheme, separator, rest = url.partition("://")
    target = rest.rstrip("/") if separator else url
    if origin_of(f"https://{target}") is None or not target.isprintable() or set("/?#") & set(target):
        raise ForeignTextError(f"the address {shown(url, 200)!r} in the agent card is not HOST:PORT")
    parts = urlsplit(f"//{target}")
    port = parts.port or (80 if separator and scheme.lower() == "http" else 443)
    name = parts.hostname or ""
    host = f"[{name}]" if ":" in name else name
    return f"{host}:{port}"


def _listed(skill: pb.AgentSkill, card: pb.AgentCard, data_schema: Mapping[str, Any]) -> ListedTool:
    named = _NOT_IN_NAMES.sub("_", skill.id or (skill.name if card.skills else ""))[:_MAX_NAME]
    description = shown("\n".join(_description(skill, card)), _MAX_DESCRIPTION_BYTES)
    return ListedTool(
        name=named or _WHOLE_AGENT,
        title=shown(skill.name, _MAX_TITLE_BYTES),
        description=description,
        arguments_schema=_arguments(skill, card, data_schema),
    )


def _description(skill: pb.AgentSkill, card: pb.AgentCard) -> Iterator[str]:
    yield skill.description or skill.name
    yield f"It is done by the agent {card.name} of another system, which gets nothing but the arguments."
    for example in skill.examples[:_MAX_EXAMPLES]:
        yield f"Example: {example}"


def _arguments(skill: pb.AgentSkill, card: pb.AgentCard, data_schema: Mapping[str, Any]) -> dict[str, Any]:
    modes = [mode.lower() for mode in skill.input_modes or card.default_input_modes]
    takes_data = any(mode.startswith(_JSON) or mode.endswith("+json") for mode in modes)
    takes_text = not takes_data or any(mode.startswith(_TEXT) for mode in modes)
    properties: dict[str, Any] = {}
    if takes_text:
        text = "What the agent is to do, with all that it needs to know."
        properties["message"] = {"type": "string", "minLength": 1, "description": text}
    if takes_data:
        properties["data"] = {"description": "Inputs as a JSON object.", **data_schema, "type": "object"}
    required = list(properties) if len(properties) == 1 else []
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _data_schema(card: pb.AgentCard) -> Mapping[str, Any]:
    """Return the schema of the object that an extension of the card describes; an empty one where none does.

    Raises:
        ForeignTextError: it is too large.
    """
    for extension in card.capabilities.extensions:
        try:
            schema = from_struct("params", extension.params).get("schema")
        except InvalidArgument:
            continue
        if isinstance(schema, dict) and schema.get("type") == "object":
            if len(json.dumps(schema, ensure_ascii=False).encode()) > MAX_SCHEMA_BYTES:
                raise ForeignTextError(
                    f"the schema of inputs in the agent card is larger than {MAX_SCHEMA_BYTES} bytes"
                )
            return schema
    return {}
