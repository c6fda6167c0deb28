"""Serves memory alone: `python -m services.memory`."""

from services.common.runner import serve
from services.memory.service import build
from services.memory.settings import MemorySettings

if __name__ == "__main__":
    serve("memory", build, MemorySettings)
