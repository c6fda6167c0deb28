"""Settings of the orchestrator's API and its workers. Each is an environment variable `COXSWAIN_ORCHESTRATOR_*`."""

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, HttpUrl, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.common.egress import Network
from services.orchestrator.domain.artifact import ArtifactLimits


class OrchestratorSettings(BaseSettings):
    """What the operator may choose."""

    model_config = SettingsConfigDict(env_prefix="COXSWAIN_ORCHESTRATOR_", extra="ignore")

    default_model: str = Field(
        "offline/extract", min_length=1, description="Name of the model of crews and agents that name none."
    )
    max_crew_bytes: int = Field(
        2 * 1024 * 1024,
        ge=1024,
        description="Largest crew document, in bytes of its JSON, texts of knowledge included.",
    )
    max_inputs_bytes: int = Field(
        1024 * 1024, ge=1024, description="Largest inputs of one execution, in bytes of their JSON."
    )
    watch_safety_read_seconds: float = Field(
        5, gt=0, description="Seconds after which watched executions are read although no hint came."
    )
    watch_tail_bytes: int = Field(
        1024 * 1024,
        ge=16384,
        description="Bytes of newest events kept for each watched execution; watchers further behind read rows.",
    )
    housekeeping_seconds: float = Field(
        10,
        gt=0,
        description="Seconds between searches for waiting executions past their timeout, questions past their "
        "deadline and forgotten grants.",
    )
    schedule_poll_seconds: float = Field(
        1,
        gt=0,
        description="Seconds within which due schedules fire, and between looks at batches, webhooks and executions "
        "that wait for others; while there are none, looks without a hint are 30 times as far apart, or 30 seconds "
        "if that is less.",
    )
    request_retention_seconds: float = Field(
        7 * 24 * 3600,
        ge=3600,
        description="Seconds for which a request_id is remembered; a request repeated later is a new one.",
    )
    group_event_retention_seconds: float = Field(
        7 * 24 * 3600,
        ge=3600,
        description="Seconds for which WatchExecutions can go back to an event of a group.",
    )
    egress_allowed_networks: list[Network] = Field(
        [],
        description="JSON list of networks besides the public internet that webhooks may post to, by plain http too; "
        "in identity mode dev this machine is always one.",
    )
    webhook_delivery_retention_seconds: float = Field(
        7 * 24 * 3600,
        ge=3600,
        description="Seconds for which deliveries of webhooks are kept after their end.",
    )
    execution_retention_seconds: float = Field(
        0,
        ge=0,
        description="Seconds for which executions are kept after their end, unless their group chose otherwise; 0: for "
        "ever.",
    )
    tool_usage_retention_seconds: float = Field(
        400 * 24 * 3600,
        ge=0,
        description="Seconds for which calls are kept that QueryToolUsage sums up; 0: for ever. They outlive their "
        "executions.",
    )
    artifact_file_bytes: int = Field(
        16 * 1024 * 1024, ge=0, description="Bytes that one file of an execution may have; 0: no limit."
    )
    artifact_execution_bytes: int = Field(
        128 * 1024 * 1024, ge=0, description="Bytes that all files of an execution may have together; 0: no limit."
    )
    artifact_execution_files: int = Field(1000, ge=0, description="How many files an execution may have; 0: no limit.")
    artifact_group_bytes: int = Field(
        10 * 1024 * 1024 * 1024,
        ge=0,
        description="Bytes that the files of all executions of a group may have together, give or take what is stored "
        "at the same moment; 0: no limit.",
    )
    tool_list_max_age_seconds: float = Field(
        3600,
        gt=0,
        description="Seconds after which the tools of a source are listed anew when somebody needs them.",
    )
    tool_sources_file: Path | None = Field(
        None,
        validation_alias=AliasChoices("COXSWAIN_TOOLS_SOURCES_FILE", "tool_sources_file"),
        description="YAML file of the sources of tools that the operator declares for groups (docs/tools.md).",
    )
    tool_egress_allowed_networks: list[Network] = Field(
        [],
        validation_alias=AliasChoices("COXSWAIN_TOOLS_EGRESS_ALLOWED_NETWORKS", "tool_egress_allowed_networks"),
        description="JSON list of networks besides the public internet that sources of tools may be in; the tool "
        "gateway reads the same variable.",
    )

    a2a_enabled: bool = Field(
        True,
        description="Whether other systems can call published crews over A2A (docs/a2a.md).",
    )
    a2a_http_port: int = Field(
        0, ge=0, le=65535, description="Port of agent cards over plain HTTP, at the host of the service; 0 means none."
    )
    a2a_well_known_group: str = Field(
        "",
        max_length=128,
        description="Group whose default agent is described at /.well-known/agent-card.json; empty means none, or "
        '"default" with development identities.',
    )
    a2a_public_address: str = Field(
        "",
        max_length=255,
        description="Host and port that agent cards name; empty means those of the public listener.",
    )
    a2a_assume_version: Literal["", "1.0"] = Field(
        "",
        description='Version that calls of the A2A 1.0 service without one mean; empty means "0.3", which it refuses.',
    )
    a2a_extension_prefix: str = Field(
        "https://example.com/coxswain/a2a",
        max_length=255,
        description="What the URIs of the product's extensions of A2A begin with.",
    )
    a2a_organization: str = Field(
        "",
        max_length=255,
        description="Name of the provider in agent cards; empty leaves the provider out.",
    )
    a2a_organization_url: str = Field(
        "",
        max_length=255,
        description="Address of the provider in agent cards.",
    )
    a2a_card_keys_url: str = Field(
        "",
        max_length=255,
        description="Where others find the keys of signed agent cards: /.well-known/jwks.json of the port for cards, "
        "as they reach it. Cards are signed when it is set.",
    )
    a2a_draft_hours: float = Field(
        72,
        gt=0,
        description="Hours after which tasks of A2A that wait for missing inputs are cancelled, and after as many more "
        "removed.",
    )

    @field_validator("a2a_card_keys_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if value:
            try:
                HttpUrl(value)
            except ValidationError:
                raise ValueError("must be a URL such as https://example.com/.well-known/jwks.json") from None
        return value

    @property
    def artifact_limits(self) -> ArtifactLimits:
        """How many files are kept."""
        return ArtifactLimits(
            self.artifact_file_bytes,
            self.artifact_execution_bytes,
            self.artifact_execution_files,
            self.artifact_group_bytes,
        )
