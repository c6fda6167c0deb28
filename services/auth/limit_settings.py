"""What groups are allowed for which the operator has set nothing else; the prefix is `COXSWAIN_LIMIT_`."""

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.common.identity.group_limits import UNLIMITED, GroupLimits


class LimitSettings(BaseSettings):
    """The defaults of limits; unset or -1 means unlimited, 0 that nothing is allowed."""

    model_config = SettingsConfigDict(env_prefix="COXSWAIN_LIMIT_", env_ignore_empty=True, extra="ignore")

    calls_per_minute: int | None = Field(None, ge=-1, description="Calls of a group in a minute.")
    calls_burst: int | None = Field(
        None, ge=1, description="Calls of a group that may come at once; unset: as many as in a minute."
    )
    max_open_streams: int | None = Field(None, ge=-1, description="Streams that a group may have open.")
    max_open_streams_per_subject: int | None = Field(
        None, ge=-1, description="Streams that one subject may have open in one process."
    )
    max_open_executions: int | None = Field(None, ge=-1, description="Executions of a group that have not ended.")
    max_running_executions: int | None = Field(
        None, ge=-1, description="Executions of a group that workers have in hand; the others wait in the queue."
    )
    max_crews: int | None = Field(None, ge=-1, description="Crews that a group may store.")
    max_schedules: int | None = Field(None, ge=-1, description="Schedules that a group may store.")
    max_members: int | None = Field(None, ge=-1, description="Members of a group, with those who are invited.")
    max_secrets: int | None = Field(None, ge=-1, description="Secrets that a group may store.")
    max_models: int | None = Field(None, ge=-1, description="Models of a group's own.")
    model_calls_per_minute: int | None = Field(None, ge=-1, description="Calls of models of a group in a minute.")
    monthly_cost_ceiling: float | None = Field(
        None, ge=-1, allow_inf_nan=False, description="US dollars for models of a group in a calendar month (UTC)."
    )
    max_records: int | None = Field(None, ge=-1, description="Records in a group's memories.")
    max_stored_bytes: int | None = Field(None, ge=-1, description="Bytes of the files that executions of a group keep.")

    @field_validator("*")
    @classmethod
    def _not_negative(cls, value: float | None) -> float | None:
        if value is not None and value < 0 and value != UNLIMITED:
            raise ValueError("must be at least 0, or -1 for unlimited")
        return value

    def limits(self) -> GroupLimits:
        """Return them as limits of a group."""
        return GroupLimits(**self.model_dump())
