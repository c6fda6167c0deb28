"""Settings of the suite. The prefix is `COXSWAIN_`."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class SuiteSettings(BaseSettings):
    """What only the one-port suite needs to know."""

    model_config = SettingsConfigDict(env_prefix="COXSWAIN_", extra="ignore")

    workers: int = Field(2, ge=0, le=64, description="Worker hosts the suite runs as child processes.")
