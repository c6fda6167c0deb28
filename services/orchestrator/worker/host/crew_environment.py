"""What the environment of crew processes holds: nothing but what CrewAI needs, and no secret."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from services.orchestrator.worker.link.containment import ContainmentMode, containment_variables
from services.orchestrator.worker.link.limits import CrewLimits

_KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "SYSTEMROOT", "LD_LIBRARY_PATH", "PYTHONHASHSEED")
# Lets coverage measurement see crew processes; set by nothing but test runs.
_KEPT_PREFIXES = ("COVERAGE_", "COV_CORE_")

_QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_TRACKING": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "ANONYMIZED_TELEMETRY": "False",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # A process that is going to be forked must have one thread.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    # Else the C library takes 64 MiB of addresses for each thread, up to eight times the number of processors.
    "MALLOC_ARENA_MAX": "4",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    "PYTHONUNBUFFERED": "1",
    "NO_COLOR": "1",
}


def crew_environment(
    home: Path,
    limits: CrewLimits | None = None,
    environment: Mapping[str, str] | None = None,
    containment: ContainmentMode = "prefer",
) -> dict[str, str]:
    """Return the environment to start the fork server with. CrewAI's files go below `home`."""
    given = os.environ if environment is None else environment
    kept = {name: value for name, value in given.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    home = home.absolute()
    return (
        kept
        | _QUIET
        | (limits or CrewLimits()).environment
        | containment_variables(containment)
        | {
            "HOME": str(home),
            "CREWAI_STORAGE_DIR": str(home / "storage"),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
    )
