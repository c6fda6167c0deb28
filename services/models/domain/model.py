"""Models: what is configured of them, and how a group sees them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum

from services.models.domain.prices import FREE, Prices, dearest

SHARED_GROUP = ""
"""The group id of models that every group sees."""
OWN_MODELS = "own"
"""What metrics count all models of groups as: these have any names, and there is no end of them."""


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
class Deployment:
    """One of several upstreams that serve the same model."""

    base_url: str = ""
    """Empty means the model's own."""
    upstream_model: str = ""
    """Empty means the model's own."""
    weight: int = 0
    """Its part of the calls, in proportion to the weights of the others; 0 means 1."""


@dataclass(frozen=True, slots=True)
class Fallbacks:
    """Names of other models that answer in a model's place, in the order in which they are asked."""

    on_outage: tuple[str, ...] = ()
    """Also where a rate limit does not pass in time, or a quota is used up."""
    on_context_window: tuple[str, ...] = ()
    on_content_filter: tuple[str, ...] = ()

    @property
    def given(self) -> bool:
        """Whether there are any."""
        return bool(self.on_outage or self.on_context_window or self.on_content_filter)

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys((*self.on_outage, *self.on_context_window, *self.on_content_filter)))


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
    fallbacks: Fallbacks = Fallbacks()
    deployments: tuple[Deployment, ...] = ()
    """Empty means one, at `base_url`."""

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
        """What its tokens cost, unless its deployments differ; see `Model.prices`."""
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
        elsewhere = self.base_url or any(deployment.base_url for deployment in self.deployments)
        own = self.provider is Provider.OFFLINE or (self.provider in (Provider.OLLAMA, Provider.VLLM) and not elsewhere)
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
    | {f"fallbacks.{entry.name}" for entry in fields(Fallbacks)}
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
    place_prices: tuple[Prices, ...] = ()
    """What tokens cost at each of `places`, where that differs; empty means the prices of `spec`."""

    @property
    def name(self) -> str:
        """The name calls refer to it by."""
        return self.spec.name

    @property
    def prices(self) -> Prices:
        """What its tokens cost; of several deployments with other prices, at most."""
        return dearest(self.place_prices) if self.place_prices else self.spec.prices

    @property
    def places(self) -> tuple["Model", ...]:
        """The model as each of its deployments serves it, with the prices there; itself where it has none."""
        if not self.spec.deployments and not self.place_prices:
            return (self,)
        places = tuple(self.at(deployment) for deployment in self.spec.deployments) or (self,)
        if not self.place_prices:
            return places
        return tuple(
            replace(place, place_prices=(prices,)) for place, prices in zip(places, self.place_prices, strict=True)
        )

    def at(self, deployment: Deployment) -> "Model":
        """Return the model as one of its deployments serves it."""
        base_url = deployment.base_url or self.spec.base_url
        upstream_model = deployment.upstream_model or self.spec.upstream_model
        spec = replace(self.spec, base_url=base_url, upstream_model=upstream_model, deployments=())
        return replace(self, spec=spec, place_prices=())

    @property
    def shared(self) -> bool:
        """Whether every group sees it; its address is then the operator's and trusted."""
        return self.group_id == SHARED_GROUP

    @property
    def counted_as(self) -> str:
        """The name that metrics have for it."""
        return self.name if self.shared else OWN_MODELS
