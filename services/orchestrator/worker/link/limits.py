"""What a crew process may use. Its host passes the limits on in the environment; each error names the setting."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

from services.orchestrator.worker.link.errors import TaskError

OUT_OF_MEMORY_STATUS = 71
"""Exit status of a crew process that had no memory left even to say so."""

_SETTING = "COXSWAIN_WORKER_CREW_"
_VARIABLE = "CREW_LIMIT_"


@dataclass(frozen=True, slots=True)
class CrewLimits:
    """Limits of one crew process, with their defaults."""

    memory_mib: int = 1024
    """Memory beyond what the process shares with those forked beside it."""
    threads: int = 256
    open_files: int = 256
    file_mib: int = 64
    """Size of a file it writes."""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Self:
        """Return the limits of an environment, defaults where it names none."""
        names = {field.name: f"{_VARIABLE}{field.name.upper()}" for field in fields(cls)}
        return cls(**{field: int(environment[name]) for field, name in names.items() if name in environment})

    @property
    def environment(self) -> dict[str, str]:
        """What passes them on."""
        return {f"{_VARIABLE}{field.name.upper()}": str(getattr(self, field.name)) for field in fields(self)}

    def out_of_memory(self) -> TaskError:
        """Return the error of a process that needs more memory."""
        return _exceeded(f"needs more than {self.memory_mib} MiB of memory", "MEMORY_MIB")

    def too_many_threads(self) -> TaskError:
        """Return the error of a process that starts more threads."""
        return _exceeded(f"needs more than {self.threads} threads", "THREADS")

    def too_many_files(self) -> TaskError:
        """Return the error of a process that opens more files."""
        return _exceeded(f"has more than {self.open_files} files open", "OPEN_FILES")

    def too_large_file(self) -> TaskError:
        """Return the error of a process that writes a larger file."""
        return _exceeded(f"writes a file of more than {self.file_mib} MiB", "FILE_MIB")


def _exceeded(what: str, setting: str) -> TaskError:
    return TaskError(
        "CREW_PROCESS_LIMIT",
        f"the process that runs the crew {what}; give the crew less at once, or raise {_SETTING}{setting}",
        fatal=True,
    )
