"""Models: what is configured of them, and how a group sees them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum

from services.models.domain.prices import FREE, Prices

SHARED_GROUP = ""
"""The group id of models that every group sees."""


class Provider(StrEnum):
    """How a model is reached."""

    OFFLINE = "offline"
    OPENAI = "openai"
    DATABRICKS = "databricks"
    LITELLM = "litellm"
    AZURE = "azure"
    OLLAMA = "ollama"
    VLLM = "vllm"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model can do."""

    chat: bool = False
    embeddings: bool = False
    tools: bool = False
    json_schema: bool = False
    reasoning: bool = False
    images: bool = False
    documents: bool = False
    audio: bool = False


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
    max_input_tokens: int = 0
    """Tokens of a prompt; 0 means `context_window`."""
    max_output_tokens: int = 0
    """0 means the upstream's default."""
    embedding_dimension: int = 0
    """Components of a vector when a call asks for no other number; 0 is unknown."""
    max_texts_per_request: int = 0
    """Texts that its upstream embeds in one request; 0 means the installation's default, and fewer once refused."""
    temperature: float | None = None
    """Used when a call names none."""
    provider_options: Mapping[str, str] = field(default_factory=dict)
    """See `provider_options`."""
    input_cost_per_million_tokens: float | None = None
    """US dollars; None is unknown."""
    output_cost_per_million_tokens: float | None = None
    """US dollars; None is unknown."""
    cached_input_cost_per_million_tokens: float | None = None
    """US dollars; None is the price of other input."""
    cache_write_cost_per_million_tokens: float | None = None
    """US dollars; None is the price of other input."""
    keep_think_tags: bool = False
    """Whether `<think>` at the beginning of an answer stays in its text."""
    unsupported_parameters: tuple[str, ...] = ()
    """Empty means what is known of the model; see `parameters`."""

    @property
    def upstream_name(self) -> str:
        """The name the upstream knows the model by."""
        return self.upstream_model or self.name.partition("/")[2] or self.name

    @property
    def input_limit(self) -> int:
        """Tokens that a prompt may have; 0 is unknown."""
        return self.max_input_tokens or self.context_window

    @property
    def prices(self) -> Prices:
        """What its tokens cost: nowhere else decides it."""
        if self._is_own_machine:
            return FREE
        # Embeddings have no output that could cost anything.
        output = self.output_cost_per_million_tokens
        if output is None and not self.capabilities.chat:
            output = 0.0
        return Prices(
            input=self.input_cost_per_million_tokens,
            output=output,
            cached_input=self.cached_input_cost_per_million_tokens,
            cache_write=self.cache_write_cost_per_million_tokens,
        )

    @property
    def _is_own_machine(self) -> bool:
        """Whether it runs at the operator's, who charges by other means unless the model has prices."""
        own = self.provider is Provider.OFFLINE or (
            self.provider in (Provider.OLLAMA, Provider.VLLM) and not self.base_url
        )
        return own and self.input_cost_per_million_tokens is None and self.output_cost_per_million_tokens is None


PRICE_FIELDS = (
    "input_cost_per_million_tokens",
    "output_cost_per_million_tokens",
    "cached_input_cost_per_million_tokens",
    "cache_write_cost_per_million_tokens",
)
"""Names of the fields with prices, in the order of `Prices`."""

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
    revision: int = 1
    """Grows with each change of the configuration."""
    listed_fields: tuple[str, ...] = ()
    """Fields of `spec` that the configuration leaves out, and that are filled in from the packaged list."""

    @property
    def name(self) -> str:
        """The name calls refer to it by."""
        return self.spec.name

    @property
    def shared(self) -> bool:
        """Whether every group sees it; its address is then the operator's and trusted."""
        return self.group_id == SHARED_GROUP
