"""A fork server as on a kernel without Landlock."""

from services.common.containment import file_rules
from services.orchestrator.worker.crew import fork_server

if __name__ == "__main__":
    file_rules.landlock_version = lambda: 0
    fork_server.main()
