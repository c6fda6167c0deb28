"""Failures of writes: rows that were not taken, and indexes that take none."""

import json
from collections.abc import Sequence

from services.common.errors import Aborted, FailedPrecondition

_MOST_NAMED_BYTES = 1200
"""Failures travel in gRPC's trailers, of which clients take 8 KiB."""


def partial_failure(what: str, ids: Sequence[str]) -> Aborted:
    """Return the failure of a call of which some rows were not written or removed.

    As many of their ids are named as gRPC carries; `failed_count` is their number.
    """
    named, size = list[str](), 2
    for failed_id in ids:
        size += len(json.dumps(failed_id)) + 2
        if size > _MOST_NAMED_BYTES:
            break
        named.append(failed_id)
    shown = ", ".join(named[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
    return Aborted(
        f"{len(ids)} records were not {what}: {shown}; send the call again",
        reason="PARTIAL_FAILURE",
        metadata={"failed_ids": json.dumps(named), "failed_count": str(len(ids))},
    )


def read_only(index: str, source_table: str) -> FailedPrecondition:
    """Return the refusal to write to an index that follows a table."""
    return FailedPrecondition(
        f"index {index} follows the table {source_table} and is read only: write to that table, or name a "
        "direct-access index in the backend (UpdateMemoryBackend) and create it (ProvisionMemoryBackend)",
        reason="INDEX_READ_ONLY",
        metadata={"index": index, "source_table": source_table},
    )
