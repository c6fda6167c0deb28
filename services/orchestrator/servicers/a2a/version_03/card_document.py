"""The card of 0.3 as JSON, whose security has another shape there than in its proto."""

from typing import Any

from a2a.types import a2a_pb2 as pb
from google.protobuf import json_format

from services.orchestrator.servicers.a2a.version_03.convert import card_to_03


def card_document(card: pb.AgentCard, tenant: pb.AgentExtension) -> dict[str, Any]:
    """Return the JSON document of a card; for `tenant` see `card_to_03`."""
    old = card_to_03(card, tenant)
    document: dict[str, Any] = json_format.MessageToDict(old, always_print_fields_with_no_presence=True)
    for name in ("documentationUrl", "iconUrl", "signatures"):
        document.pop(name)
    document["additionalInterfaces"] = [{"url": old.url, "transport": old.preferred_transport}]
    document["securitySchemes"] = {
        name: {"type": "http", "scheme": scheme.http_auth_security_scheme.scheme.lower()}
        for name, scheme in old.security_schemes.items()
    }
    document["security"] = [{name: [] for name in old.security_schemes}]
    return document
