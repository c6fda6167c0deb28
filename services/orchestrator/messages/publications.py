"""Crews as agents of other systems: messages to domain and back."""

from coxswain.orchestrator.v1 import a2a_pb2
from services.orchestrator.domain.a2a import A2ASkill, A2ASpec, Publication


def a2a_from_proto(message: a2a_pb2.A2ASpec) -> A2ASpec:
    """Return how a crew answers as an agent."""
    return A2ASpec(
        published=message.published,
        is_default=message.is_default,
        skills=tuple(
            A2ASkill(skill.id, skill.name, skill.description, tuple(skill.tags), tuple(skill.examples))
            for skill in message.skills
        ),
        input_modes=tuple(message.input_modes),
        output_modes=tuple(message.output_modes),
        text_input=message.text_input,
        file_input=message.file_input,
        all_results=message.all_results,
        public_card=message.public_card,
    )


def a2a_to_proto(spec: A2ASpec) -> a2a_pb2.A2ASpec | None:
    """Return the same as callers see it; None where nothing was said."""
    if spec == A2ASpec():
        return None
    return a2a_pb2.A2ASpec(
        published=spec.published,
        is_default=spec.is_default,
        skills=[
            a2a_pb2.A2ASkill(
                id=skill.id,
                name=skill.name,
                description=skill.description,
                tags=skill.tags,
                examples=skill.examples,
            )
            for skill in spec.skills
        ],
        input_modes=spec.input_modes,
        output_modes=spec.output_modes,
        text_input=spec.text_input,
        file_input=spec.file_input,
        all_results=spec.all_results,
        public_card=spec.public_card,
    )


def publication_to_proto(publication: Publication) -> a2a_pb2.Publication:
    """Return a publication as callers see it."""
    message = a2a_pb2.Publication(
        crew_id=publication.crew_id,
        crew_name=publication.crew_name,
        tenant=publication.tenant,
        is_default=publication.is_default,
        public_card=publication.public_card,
    )
    message.create_time.FromDatetime(publication.created_at)
    return message
