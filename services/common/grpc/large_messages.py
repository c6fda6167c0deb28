"""Work on large messages, beside the event loop."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Below, a thread costs more than the work.
_LARGE_BYTES = 64 * 1024
# Apart from the threads that resolve names and read files, which must not wait for this.
_THREADS = ThreadPoolExecutor(2, thread_name_prefix="coxswain-large-message")


async def beside_if_large(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `work` returns; for a message of many bytes it is done in a thread, so that others are served."""
    if size < _LARGE_BYTES:
        return work(*args, **kwargs)
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(_THREADS, lambda: context.run(work, *args, **kwargs))
