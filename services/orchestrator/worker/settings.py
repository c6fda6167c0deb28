"""Settings of worker hosts. Each is an environment variable `COXSWAIN_WORKER_*`."""

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.orchestrator.worker.default_slots import default_slots
from services.orchestrator.worker.link.containment import ContainmentMode
from services.orchestrator.worker.link.limits import CrewLimits

_LIMITS = CrewLimits()


class WorkerSettings(BaseSettings):
    """What the operator may choose."""

    model_config = SettingsConfigDict(env_prefix="COXSWAIN_WORKER_", extra="ignore")

    reserved_slots: int = Field(
        1,
        ge=0,
        le=256,
        description="Executions a host runs beyond its slots, of groups that have none running: however many one group "
        "starts, others need not wait for them.",
    )
    crew_memory_mib: int = Field(
        _LIMITS.memory_mib,
        ge=16,
        description="MiB of memory a crew process may use beyond what it shares with the others; on Linux.",
    )
    slots: int = Field(
        0,
        ge=0,
        le=256,
        description="Executions a host runs at once, each in a process of its own; 0: as many as the memory limit of "
        "its container holds with crew_memory_mib each, at most 16 for each processor, and 4 without such a limit. "
        "Hosts of the suite share what its services leave.",
    )
    group_limit: int | None = Field(
        None,
        ge=1,
        description="Executions of one group that run at once on all hosts together; by default as many as all hosts "
        "have slots.",
    )
    group_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of the slots of all hosts that executions of one group may occupy at once, rounded up; it "
        "follows within a minute when hosts come and go. Of this and group_limit the lower one counts.",
    )
    lease_seconds: float = Field(
        30,
        gt=0,
        description="Seconds without a sign of life after which other hosts take over the executions of a host that "
        "hangs or cannot be reached; the end of its process they notice at once.",
    )
    heartbeat_seconds: float = Field(
        7.5, gt=0, description="Seconds between two signs of life; unless set, a quarter of a lease of less than 30."
    )
    sweep_seconds: float = Field(
        1.5,
        gt=0,
        description="Seconds between two searches for hosts that have died, by the two oldest hosts; younger ones "
        "search less often, but every 10 seconds.",
    )
    safety_read_seconds: float = Field(
        5,
        gt=0,
        description="Seconds after which ready executions and cancellations are read although no hint came: by the "
        "oldest host, and by those that run executions; others read up to 16 times less often.",
    )
    drain_seconds: float = Field(
        30, ge=0, description="Seconds running executions get to end on SIGTERM before other hosts take them over."
    )
    event_interval_seconds: float = Field(
        0.05, ge=0, description="Seconds for which chunks of models' answers are collected before they are stored."
    )
    chunk_retention_seconds: float = Field(
        60, ge=0, description="Seconds for which the chunks of a model's answer stay after its full text is stored."
    )
    peer_retry_seconds: float = Field(
        300, ge=0, description="Seconds a service that does not answer is asked again before a task fails."
    )
    model_retry_seconds: float = Field(
        600,
        ge=0,
        description="Seconds a model whose provider fails in a way that passes is asked again, counted from the first "
        "failure since its last answer to a task, before the task fails.",
    )
    model_retry_base_seconds: float = Field(
        1, ge=0, description="Seconds before a model whose provider failed is asked again; doubled each time."
    )
    model_retry_longest_seconds: float = Field(
        30, ge=0, description="Longest pause in seconds, unless the provider asks for a longer one."
    )
    model_wait_slot_seconds: float = Field(
        30,
        ge=0,
        description="Seconds an execution that only waits for models keeps its slot, counted like the above. One that "
        "has to wait longer rests without a slot and is continued when its model is asked again.",
    )
    model_call_seconds: float = Field(
        900,
        gt=0,
        description="Seconds one model call may take before it is given up and tried again, where its crew sets none.",
    )
    model_first_byte_seconds: float = Field(
        300, gt=0, description="Seconds until a model begins to answer before the call is given up and tried again."
    )
    max_lost_hosts: int = Field(
        3,
        ge=1,
        description="How many hosts in a row may die while they run an execution, none of which finished a task; then "
        "it fails with WORKER_LOST_REPEATEDLY. Each takes down what else it runs, so a crew that kills its hosts "
        "should not get many. Hosts that were told to stop do not count; raise it where machines are often taken away "
        "without notice and tasks take hours.",
    )
    crew_threads: int = Field(_LIMITS.threads, ge=8, description="Threads a crew process may have.")
    crew_open_files: int = Field(_LIMITS.open_files, ge=32, description="Files a crew process may have open.")
    crew_file_mib: int = Field(_LIMITS.file_mib, ge=1, description="MiB of a file that a crew process writes.")
    crew_process_attempts: int = Field(
        3, ge=1, description="How often a task is started again after its crew process died, before it fails."
    )

    containment: ContainmentMode = Field(
        "prefer",
        description="How crew processes are contained by the kernel, which then refuses them all other files, new "
        'connections, programs and other processes: "prefer" as far as it can, "require" altogether or the host does '
        'not start, "off" not at all.',
    )

    @property
    def crew_limits(self) -> CrewLimits:
        """What each crew process may use."""
        return CrewLimits(self.crew_memory_mib, self.crew_threads, self.crew_open_files, self.crew_file_mib)

    @model_validator(mode="after")
    def _slots_fit_the_container(self) -> "WorkerSettings":
        self.slots = self.slots or default_slots(self.crew_memory_mib, self.reserved_slots)
        return self

    @model_validator(mode="after")
    def _heartbeats_fit_the_lease(self) -> "WorkerSettings":
        if "heartbeat_seconds" not in self.model_fields_set:
            self.heartbeat_seconds = min(self.heartbeat_seconds, self.lease_seconds / 4)
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError("heartbeat_seconds has to be at most half of lease_seconds")
        return self
