"""Settings of memory. Each is an environment variable with the prefix `COXSWAIN_MEMORY_`."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

_MIB = 1024 * 1024


class MemorySettings(BaseSettings):
    """What only memory needs to know."""

    model_config = SettingsConfigDict(env_prefix="COXSWAIN_MEMORY_", extra="ignore")

    embedding_model: str = Field(
        "", max_length=128, description="Embedding model of new namespaces; empty means the default of models."
    )
    short_term_ttl_hours: int = Field(
        168, ge=1, le=87600, description="Hours a short-term memory lives when it does not say so itself."
    )
    sweep_seconds: float = Field(300, gt=0, description="Seconds between two removals of expired memories.")
    cache_bytes: int = Field(
        256 * _MIB, ge=0, description="Bytes of vectors that searches of the default store keep in memory, at most."
    )
    cached_namespace_bytes: int = Field(
        64 * _MIB, ge=0, description="Bytes of vectors of one namespace kept in memory; larger ones are read each time."
    )
