"""All services of Coxswain in one process."""

import os

# Children are started by exec: gRPC need not get ready for forks, and would say so on every start.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
