"""Serves the orchestrator's API alone: `python -m services.orchestrator`."""

from services.common.first_signals import end_on_signals

if __name__ == "__main__":
    end_on_signals()

from services.common.runner import serve
from services.orchestrator.service import build
from services.orchestrator.settings import OrchestratorSettings

if __name__ == "__main__":
    serve("orchestrator", build, OrchestratorSettings)
