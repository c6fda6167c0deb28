"""Serves memory alone: `python -m services.memory`."""

from services.common.first_signals import end_on_signals

if __name__ == "__main__":
    end_on_signals()

from services.common.runner import serve
from services.memory.service import build
from services.memory.settings import MemorySettings

if __name__ == "__main__":
    serve("memory", build, MemorySettings, processes_of=lambda settings: settings.processes)
