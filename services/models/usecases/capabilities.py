"""What is said to calls for which a model lacks a capability."""

from services.common.errors import FailedPrecondition
from services.models.domain.model import Model


def lacking_capability(model: Model, capability: str, what: str) -> FailedPrecondition:
    """Return the failure of a call for which the model lacks a capability."""
    return FailedPrecondition(
        f'the model "{model.name}" cannot {what}; choose one whose capabilities include {capability} (see ListModels)',
        reason="MODEL_LACKS_CAPABILITY",
        metadata={"model": model.name, "capability": capability},
    )
