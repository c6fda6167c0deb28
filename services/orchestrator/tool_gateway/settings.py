"""Settings of the tool gateway. Each is an environment variable with the prefix `COXSWAIN_TOOLS_`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from services.common.egress import Network, origin_of


def _split(value: object) -> object:
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class ToolGatewaySettings(BaseSettings):
    """What the operator may choose."""

    model_config = SettingsConfigDict(env_prefix="COXSWAIN_TOOLS_", extra="ignore")

    egress_allowed_networks: list[Network] = Field(
        [],
        description="JSON list of networks besides the public internet that tools may be in; plain http is allowed "
        'there too. Example: ["10.20.0.0/16"].',
    )
    max_result_bytes: int = Field(
        16 * 1024 * 1024,
        ge=64 * 1024,
        # What fits into a message to a worker host, with room for the rest of it.
        le=20 * 1024 * 1024,
        description="Largest result of a tool, in bytes; of a larger one reading stops, and the call fails.",
    )
    connect_seconds: float = Field(10, gt=0, description="Seconds a source gets to accept a connection.")
    default_timeout_seconds: float = Field(
        60, gt=0, description="Seconds without a sign of a tool after which a call that sets no limit ends."
    )
    max_timeout_seconds: float = Field(
        900, gt=0, description="Longest time of a call that sets no limit, in seconds, however much progress it shows."
    )
    question_seconds: float = Field(
        600, gt=0, description="Seconds a source that asks a person in the middle of a call is kept waiting."
    )
    calls_per_source: int = Field(
        8, ge=1, description="Calls of one group to one source that run at once in one process; others wait."
    )
    waiting_calls_per_source: int = Field(
        64, ge=0, description="Calls of one group to one source that wait for their turn; more are refused."
    )
    outage_threshold: int = Field(
        5, ge=0, description="Failures in a row after which a source is left alone for a group; 0: never."
    )
    outage_pause_seconds: float = Field(
        30, gt=0, description="Seconds a source is left alone at first; doubled when it then fails again."
    )
    lease_seconds: float = Field(
        15, ge=3, description="Seconds without a sign of a process after which the calls it made count as lost."
    )
    outcome_retention_seconds: float = Field(
        24 * 3600, ge=60, description="Seconds an outcome is kept for the worker host that asked for it."
    )
    python: Path | None = Field(
        None,
        description="Python interpreter of the environment that has tools installed as entry points of the group "
        "coxswain.tools; without it the gateway's own. Example: /opt/tools/bin/python.",
    )
    python_memory_mib: int = Field(512, ge=64, description="Memory of one process that runs such a tool, in MiB.")
    python_cpu_seconds: int = Field(
        60, ge=1, description="Processor time of one call of such a tool, in seconds; its process is killed after it."
    )
    python_processes: int = Field(16, ge=1, description="Processes that run such tools at once.")
    python_processes_per_group: int = Field(
        4, ge=1, description="Processes that run such tools at once for one group; its other calls wait."
    )
    command_processes: int = Field(
        1024,
        ge=0,
        description="Processes and threads that a command of an MCP source may add to those of its user. The kernel "
        "counts that user's on the whole node, those of other containers too; 0: not limited.",
    )
    http_request_origins: Origins = Field(
        (),
        description="Origins (comma separated) that http_request may call at all; unset: what crews allow.",
    )
    search_base_url: str = Field(
        "",
        description="Address of the search service that web_search asks; unset: a group cannot search. "
        "Example: https://search.example.com.",
    )
    search_wire: Literal["tavily", "serper"] = Field(
        "tavily",
        description="What that service speaks: tavily (bearer token) or serper (X-API-KEY).",
    )
    honor_robots: bool = Field(
        True, description="Whether web_fetch leaves out pages that a site's robots.txt closes to robots."
    )

    @field_validator("http_request_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if "://" not in origin or origin_of(origin) != origin.rstrip("/"):
                raise ValueError("must be origins: scheme, host and port; example: https://api.example.com")
        return tuple(origin.rstrip("/") for origin in value)

    @field_validator("search_base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        if value and ("://" not in value or origin_of(value) is None):
            raise ValueError("must be an absolute address; example: https://search.example.com")
        return value.rstrip("/")
