"""Everything a crew process needs, imported once in the fork server. Starts no thread and opens no connection."""

import gc
import threading

from services.orchestrator.worker.engine import child


def preload() -> None:
    """Warm the process that crew processes are forked from.

    Raises:
        RuntimeError: something imported here started a thread; a forked copy of it would lack the thread but keep its
            locks.
    """
    child.warm_up()
    if threading.active_count() != 1:
        raise RuntimeError(f"threads in the fork server: {[thread.name for thread in threading.enumerate()]}")
    gc.collect()
    # Forked processes share these objects' pages as long as the collector leaves them alone.
    gc.freeze()
