"""Agent cards, made from the crew each time."""

from dataclasses import dataclass
from typing import Literal

from a2a.types import a2a_pb2 as pb

from services.common.grpc.json_values import to_struct
from services.orchestrator.domain.a2a import Publication, readable_id
from services.orchestrator.domain.crew import Crew
from services.orchestrator.servicers.a2a.card_signing import CardSigner
from services.orchestrator.servicers.a2a.metadata import VERSION, VERSION_03, Extensions
from services.orchestrator.usecases.a2a.inputs import input_modes, output_modes
from services.orchestrator.usecases.publications import message_inputs

_SCHEME = "bearer"


@dataclass(frozen=True, slots=True)
class CardMaker:
    """Makes the cards of an installation's agents."""

    address: str
    """Host and port that others call."""
    extensions: Extensions
    inputs_extension: str
    """URI of the extension that describes the inputs of a crew."""
    identity_mode: Literal["dev", "jwt", "databricks"]
    organization: str = ""
    organization_url: str = ""
    signer: CardSigner | None = None
    """None: cards are not signed."""

    def signed(self, card: pb.AgentCard) -> pb.AgentCard:
        """Return a card of 1.0 as it is sent: with its signature, where cards have one."""
        if self.signer is not None:
            self.signer.sign(card)
        return card

    def extended(self, publication: Publication, crew: Crew) -> pb.AgentCard:
        """Return the card of a published crew, with the inputs that messages can give."""
        card = self.public(publication, crew)
        names = message_inputs(crew.spec)
        schema = {"type": "object", "properties": {name: {} for name in names}, "required": names}
        card.capabilities.extensions.add(
            uri=self.inputs_extension,
            description="The object that a part of data gives inputs with.",
            params=to_struct({"schema": schema}),
        )
        return self.signed(card)

    def public(self, publication: Publication, crew: Crew) -> pb.AgentCard:
        """Return the card of a published crew as anybody may read it."""
        spec = crew.spec
        card = pb.AgentCard(
            name=spec.name,
            description=spec.description or spec.name,
            version=str(crew.revision),
            # The preferred one first.
            supported_interfaces=[
                pb.AgentInterface(
                    url=self.address, protocol_binding="GRPC", tenant=publication.tenant, protocol_version=version
                )
                for version in (VERSION, VERSION_03)
            ],
            capabilities=pb.AgentCapabilities(
                streaming=True, push_notifications=True, extended_agent_card=True, extensions=self._extensions()
            ),
            default_input_modes=input_modes(spec),
            default_output_modes=output_modes(spec),
            skills=self._skills(crew),
        )
        if self.organization:
            card.provider.organization, card.provider.url = self.organization, self.organization_url
        scheme = pb.HTTPAuthSecurityScheme(
            scheme="Bearer", description="A token of the installation's identity provider."
        )
        if self.identity_mode == "jwt":
            scheme.bearer_format = "JWT"
        card.security_schemes[_SCHEME].http_auth_security_scheme.CopyFrom(scheme)
        card.security_requirements.add().schemes[_SCHEME].SetInParent()
        return card

    def tenant_extension(self, publication: Publication) -> pb.AgentExtension:
        """Return the extension by which clients of 0.3 call an agent that is not the default of its group."""
        return pb.AgentExtension(
            uri=self.extensions.tenant,
            description="Messages are for the tenant of `params` that carry it as the metadata x-a2a-tenant, or as "
            "`tenant` in the metadata of their request; those without are for the group's default agent.",
            required=not publication.is_default,
            params=to_struct({"tenant": publication.tenant}),
        )

    def _extensions(self) -> list[pb.AgentExtension]:
        return [
            pb.AgentExtension(
                uri=self.extensions.idempotent, description="A message_id that is sent again makes no second task."
            ),
            pb.AgentExtension(
                uri=self.extensions.resume,
                description="With the metadata x-after-sequence, SubscribeToTask goes on after what was received.",
            ),
        ]

    def _skills(self, crew: Crew) -> list[pb.AgentSkill]:
        spec = crew.spec
        if not spec.a2a.skills:
            skill_id = readable_id(spec.name) or crew.id
            return [
                pb.AgentSkill(id=skill_id, name=spec.name, description=spec.description or spec.name, tags=["crew"])
            ]
        return [
            pb.AgentSkill(
                id=skill.id,
                name=skill.name,
                description=skill.description or skill.name,
                tags=skill.tags,
                examples=skill.examples,
            )
            for skill in spec.a2a.skills
        ]
