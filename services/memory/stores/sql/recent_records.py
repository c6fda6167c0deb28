"""Records that searches found lately, without their vectors."""

from collections.abc import Mapping, Sequence

from cachetools import LRUCache

from services.memory.domain.records import Record

_OBJECT_BYTES = 2048
"""What a record takes beside its texts, as objects of Python."""

_COPIES = 2
"""Its texts are held as they are and as part of its message."""


class RecentRecords:
    """Records by namespace, version and stored id; those of a former version are never returned, and go in time.

    What is returned is shared by all searches: nobody may change it. To be used from one event loop.
    """

    def __init__(self, max_bytes: int) -> None:
        self._records: LRUCache[tuple[str, int, str], Record] = LRUCache(max_bytes, getsizeof=_size)

    def of(self, namespace_id: str, version: int, ids: Sequence[str]) -> dict[str, Record] | None:
        """Return the records of all these ids as of a version; None when one of them is not remembered."""
        found: dict[str, Record] = {}
        for stored_id in ids:
            record = self._records.get((namespace_id, version, stored_id))
            if record is None:
                return None
            found[stored_id] = record
        return found

    def put(self, namespace_id: str, version: int, by_id: Mapping[str, Record]) -> None:
        """Remember records as of a version; one that is larger than all there may be is not kept."""
        for stored_id, record in by_id.items():
            if _size(record) <= self._records.maxsize:
                self._records[namespace_id, version, stored_id] = record


def _size(record: Record) -> int:
    return _OBJECT_BYTES + _COPIES * record.most_bytes
