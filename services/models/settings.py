"""Settings of the models service."""

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.common.egress import Network, origin_of
from services.models.domain.extra_parameters import DEFAULT_EXTRA_PARAMETERS, may_be_allowed


def _origin(text: str) -> str:
    origin = origin_of(text)
    if origin is None:
        raise ValueError('must be origins in the form "https://HOST:PORT"')
    return origin


class ModelsSettings(BaseSettings):
    """Read from `COXSWAIN_MODELS_*`; what other tools name differently is read under their own names."""

    model_config = SettingsConfigDict(
        env_prefix="COXSWAIN_MODELS_", env_ignore_empty=True, extra="ignore", populate_by_name=True
    )

    seed_file: Path = Field(
        Path(__file__).with_name("models.yaml"), description="YAML list of the models every group sees."
    )
    default_embedding_model: str = Field("offline/embed", description="Model that Embed uses when a call names none.")
    catalogue_max_age_seconds: float | None = Field(
        None,
        ge=0,
        description="Seconds a model's row may be remembered. Empty: 5 on SQLite, where this process alone changes "
        "rows and forgets what it changes; 0 on PostgreSQL, where others do.",
    )
    openai_base_url: str = Field(
        "https://api.openai.com/v1",
        validation_alias="OPENAI_BASE_URL",
        description="Address of the OpenAI-compatible interface that models without a base_url of their own use.",
    )
    azure_openai_endpoint: str = Field(
        "",
        validation_alias="AZURE_OPENAI_ENDPOINT",
        description="Address of the Azure resource that Azure models without a base_url of their own use.",
    )
    databricks_host: str = Field(
        "", validation_alias="DATABRICKS_HOST", description="Databricks workspace; its serving endpoints are used."
    )
    ollama_base_url: str = Field(
        "http://127.0.0.1:11434/v1",
        validation_alias="OLLAMA_BASE_URL",
        description="Address of the Ollama server that models of that provider use; called without a key where none "
        'is configured. Without a path, "/v1" is meant.',
    )
    vllm_base_url: str = Field(
        "http://127.0.0.1:8000/v1",
        validation_alias="VLLM_BASE_URL",
        description="Address of the vLLM server that models of that provider use; called without a key where none "
        'is configured. Without a path, "/v1" is meant.',
    )
    keyless_origins: list[str] = Field(
        [],
        description='JSON list of origins that are called without a key where none is configured. Example: ["http://127.0.0.1:11434"].',
    )
    egress_allowed_networks: list[Network] = Field(
        [],
        description="JSON list of networks besides the public internet that groups' own models may be reached in; "
        'plain http is allowed there too. Example: ["10.20.0.0/16"].',
    )
    request_timeout_seconds: float = Field(
        600, gt=0, description="Seconds a model call may take when its caller sets no deadline."
    )
    connect_timeout_seconds: float = Field(10, gt=0, description="Seconds until a connection to an upstream stands.")
    first_byte_seconds: float = Field(
        600,
        gt=0,
        description="Seconds until the first byte of an upstream's answer. Models that reason may take minutes.",
    )
    idle_seconds: float = Field(
        120, gt=0, description="Seconds between two bytes of an answer, keep-alive events included."
    )
    max_attempts: int = Field(
        4, ge=1, description="How often a call is attempted on rate limits, outages and lost connections."
    )
    retry_base_seconds: float = Field(0.5, gt=0, description="Seconds before the second attempt; doubled each time.")
    retry_max_seconds: float = Field(
        10,
        gt=0,
        description="Seconds that a call waits in all because an upstream asks for a pause (Retry-After). A longer "
        "wait is left to the caller: the call ends with RESOURCE_EXHAUSTED or UNAVAILABLE, with RetryInfo.",
    )
    embed_retry_max_seconds: float = Field(
        60, gt=0, description="The same for each request for embeddings, whose callers see nothing before their end."
    )
    breaker_outages: int = Field(
        5,
        ge=0,
        description="Outages of an upstream in a row after which a group's calls to it fail at once for a while; "
        "0: never.",
    )
    breaker_pause_seconds: float = Field(
        2,
        gt=0,
        description="Seconds an upstream is left alone after so many outages; doubled each time that one call finds it "
        "still away.",
    )
    breaker_max_seconds: float = Field(60, gt=0, description="Longest time, in seconds, an upstream is left alone.")
    idempotent_origins: list[str] = Field(
        [],
        description="JSON list of origins that answer a repeated Idempotency-Key header with their first answer. They "
        'are sent one, and what broke off is asked for again. Example: ["https://example.com"].',
    )
    max_calls_per_group: int = Field(
        64, ge=1, description="Calls that one group may have under way at one upstream; more wait for these."
    )
    group_wait_seconds: float = Field(
        2, gt=0, description="Seconds a call waits for its group's other calls at an upstream before it is refused."
    )
    max_response_bytes: int = Field(
        32 * 1024 * 1024, ge=65536, description="Largest response of an upstream, in bytes, streamed or whole."
    )
    max_part_bytes: int = Field(
        20 * 1024 * 1024,
        ge=1024,
        description="Largest image, document or recording in a message, in bytes. The whole request has to fit into "
        "COXSWAIN_MAX_MESSAGE_BYTES as well.",
    )
    embed_batch_size: int = Field(
        64,
        ge=1,
        le=2048,
        description="Texts sent upstream in one request, for models without max_texts_per_request.",
    )
    embed_batch_tokens: int = Field(
        250_000, ge=1, description="Tokens sent upstream in one request of embeddings, by estimate."
    )
    embed_concurrency: int = Field(4, ge=1, description="Requests of one Embed call that are under way at once.")
    embed_cache_bytes: int = Field(
        64 * 1024 * 1024, ge=0, description="Bytes of vectors that are remembered for all groups; 0 remembers none."
    )
    embed_cache_seconds: float = Field(3600, gt=0, description="Seconds for which a vector is remembered.")
    litellm_providers: list[str] = Field(
        [
            "ai21",
            "anthropic",
            "bedrock",
            "cerebras",
            "cohere",
            "dashscope",
            "deepinfra",
            "deepseek",
            "fireworks_ai",
            "gemini",
            "groq",
            "mistral",
            "moonshot",
            "nebius",
            "novita",
            "nvidia_nim",
            "openrouter",
            "perplexity",
            "sambanova",
            "together_ai",
            "vertex_ai",
            "voyage",
            "xai",
            "zai",
        ],
        description="JSON list of litellm's providers that groups' own models may use, as upstream_model begins. "
        "One that has no address of its own needs one in COXSWAIN_MODELS_LITELLM_BASE_URLS.",
    )
    litellm_base_urls: dict[str, str] = Field(
        {},
        description="JSON object of addresses that litellm uses for a provider instead of its own, such as a "
        "gateway's; a provider whose own address is not known here needs one. "
        'Example: {"groq": "https://example.com/v1"}.',
    )
    extra_parameters: list[str] = Field(
        list(DEFAULT_EXTRA_PARAMETERS),
        description="JSON list of parameters without a field of their own that calls may pass on to providers. Models "
        'reached through litellm take those of the default at most. Example: ["top_k", "min_p"].',
    )
    litellm_processes: int = Field(
        1,
        ge=1,
        description="Helper processes that run litellm, at most one per core; each takes some 200 MB. With several, "
        "the others go on when one ends.",
    )
    litellm_prestart: bool | None = Field(
        None,
        description="Whether the litellm helpers start with the service. Empty: when a group has a model of that "
        "provider, the operator's own seed file lists one, or one was called in the last seven days; else once "
        "somebody is shown that such a model has a key, or a crew looks one up. False: with the first call.",
    )
    litellm_start_seconds: float = Field(120, gt=0, description="Seconds the litellm helper may take to start.")
    request_retention_seconds: float = Field(
        7 * 24 * 3600,
        ge=3600,
        description="Seconds for which a request_id of CreateModel is remembered; one repeated later is a new call.",
    )
    budget_refresh_seconds: float = Field(
        3,
        gt=0,
        description="On PostgreSQL: seconds between two readings of what calls of other replicas have used of limits "
        "on cost and tokens. Replicas together may pass a limit by what they use in this time. WatchBudgetAlerts tells "
        "alerts of other replicas as late.",
    )
    stored_answer_seconds: float = Field(
        6 * 3600,
        gt=0,
        description="Seconds for which a repeated request_id of Complete or StreamComplete gets the first answer.",
    )
    cached_answer_seconds: float = Field(
        24 * 3600,
        gt=0,
        description="Seconds for which an answer may serve equal requests that set max_cached_age.",
    )
    stored_answers_per_group: int = Field(
        10_000, ge=1, description="Answers stored for one group; beyond about that many the oldest are removed."
    )
    stored_answer_bytes_per_group: int = Field(
        64 * 1024 * 1024,
        ge=1024,
        description="Bytes of the answers stored for one group; beyond about that many the oldest are removed.",
    )
    usage_retention_seconds: float = Field(
        400 * 24 * 3600,
        ge=0,
        description="Seconds for which calls are kept that QueryUsage sums up, and alerts; 0: for ever. Those of the "
        "present month, which limits count, are kept in any case.",
    )
    cleaning_seconds: float = Field(
        300, gt=0, description="Seconds between two removals of old requests and expired answers."
    )

    @field_validator("keyless_origins", "idempotent_origins")
    @classmethod
    def _are_origins(cls, value: list[str]) -> list[str]:
        return [_origin(origin) for origin in value]

    @field_validator("extra_parameters")
    @classmethod
    def _may_be_passed_on(cls, value: list[str]) -> list[str]:
        if refused := [name for name in value if not may_be_allowed(name)]:
            raise ValueError(
                f"must not hold {', '.join(refused)}: names are of lower-case letters, digits and _, have no field of "
                "their own, and name no key, address or callback"
            )
        return value

    @field_validator("openai_base_url", "azure_openai_endpoint", "databricks_host", "ollama_base_url", "vllm_base_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        value = value.strip().rstrip("/")
        if value and "://" not in value:
            value = f"https://{value}"
        if value and (urlsplit(value).scheme not in {"http", "https"} or not urlsplit(value).hostname):
            raise ValueError("must be an http or https address")
        return value

    @field_validator("ollama_base_url", "vllm_base_url")
    @classmethod
    def _leads_to_openais_interface(cls, value: str) -> str:
        return value if urlsplit(value).path else f"{value}/v1"

    @property
    def keyless(self) -> frozenset[str]:
        """Origins that are called without a key where none is configured."""
        return frozenset([*self.keyless_origins, _origin(self.ollama_base_url), _origin(self.vllm_base_url)])

    @property
    def databricks_base_url(self) -> str:
        """Address of the workspace's serving endpoints; empty without a workspace."""
        return f"{self.databricks_host}/serving-endpoints" if self.databricks_host else ""
