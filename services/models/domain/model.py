"""Models: what is configured of them, and how a group sees them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum

SHARED_GROUP = ""
"""The group id of models that every group sees."""


class Provider(StrEnum):
    """How a model is reached."""

    OFFLINE = "offline"
    OPENAI = "openai"
    DATABRICKS = "databricks"
    LITELLM = "litellm"
    AZURE = "azure"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model can do."""

    chat: bool = False
    embeddings: bool = False
    tools: bool = False
    json_schema: bool = False
    reasoning: bool = False


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What is configured of a model."""

    name: str
    provider: Provider
    description: str = ""
    upstream_model: str = ""
    """Empty means the name after its first `/`."""
    base_url: str = ""
    """Empty means the provider's default of this installation."""
    capabilities: Capabilities = Capabilities()
    context_window: int = 0
    """Tokens of prompt and answer together; 0 is unknown."""
    max_output_tokens: int = 0
    """0 means the upstream's default."""
    embedding_dimension: int = 0
    temperature: float | None = None
    """Used when a call names none."""
    input_cost_per_million_tokens: float = 0.0
    """US dollars."""
    output_cost_per_million_tokens: float = 0.0
    """US dollars."""
    provider_options: Mapping[str, str] = field(default_factory=dict)
    """See `provider_options`."""

    @property
    def upstream_name(self) -> str:
        """The name the upstream knows the model by."""
        return self.upstream_model or self.name.partition("/")[2] or self.name

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """Return US dollars for so many tokens."""
        return (
            input_tokens * self.input_cost_per_million_tokens + output_tokens * self.output_cost_per_million_tokens
        ) / 1_000_000


CHANGEABLE_FIELDS = frozenset(
    {entry.name for entry in fields(ModelSpec) if entry.name != "name"}
    | {f"capabilities.{entry.name}" for entry in fields(Capabilities)}
)
"""Paths of what can be changed of a model's configuration."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model as one group sees it."""

    id: str
    group_id: str
    """`SHARED_GROUP`, or the group it belongs to."""
    spec: ModelSpec
    enabled: bool
    """Whether the group that looks may call it."""
    created_at: datetime
    updated_at: datetime

    @property
    def name(self) -> str:
        """The name calls refer to it by."""
        return self.spec.name

    @property
    def shared(self) -> bool:
        """Whether every group sees it; its address is then the operator's and trusted."""
        return self.group_id == SHARED_GROUP
