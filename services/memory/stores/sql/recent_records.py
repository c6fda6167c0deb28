"""Records that searches found lately, without their vectors."""

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter

from cachetools import LRUCache

from services.memory.domain.records import Record

_NAMESPACES = 50_000
"""Namespaces of which is known which version their records are as of, some 200 bytes each."""

_COPIES = 2
"""Its texts are held as they are and as part of its message; the rest of that is as much as its objects take."""


class RecentRecords:
    """Records by namespace and stored id, as of the namespace's version; those that were changed since go in time.

    What is returned is shared by all searches: nobody may change it. To be used from one event loop.
    """

    def __init__(self, max_bytes: int) -> None:
        # By the version, too, from which on changes were followed: nothing of an earlier time is ever found.
        # Beside each its bytes, as counting them takes longer than all else.
        self._records: LRUCache[tuple[str, int, str], tuple[Record, int]] = LRUCache(max_bytes, getsizeof=itemgetter(1))
        self._versions: LRUCache[str, tuple[int, int]] = LRUCache(_NAMESPACES)
        """The version that what is remembered of a namespace is as of, and the one since when it was followed."""

    def of(self, namespace_id: str, version: int, ids: Sequence[str]) -> dict[str, Record]:
        """Return those of the records of these ids that are remembered as of a version."""
        current, since = self._versions.get(namespace_id, (0, 0))
        if current != version:
            return {}
        found: dict[str, Record] = {}
        for stored_id in ids:
            try:
                found[stored_id] = self._records[namespace_id, since, stored_id][0]
            except KeyError:
                continue
        return found

    def put(self, namespace_id: str, version: int, by_id: Mapping[str, Record]) -> None:
        """Remember records as of a version; one that is larger than all there may be is not kept."""
        current, since = self._versions.get(namespace_id, (0, 0))
        if version < current:
            return
        if version > current:
            since = version
            self._versions[namespace_id] = version, since
        for stored_id, record in by_id.items():
            size = _COPIES * record.most_bytes
            if size <= self._records.maxsize:
                self._records[namespace_id, since, stored_id] = record, size

    def follow(self, namespace_id: str, before: int, version: int, changed: Iterable[str]) -> None:
        """Let what is remembered as of the version `before` be as of another, as nothing but `changed` ids differs."""
        current, since = self._versions.get(namespace_id, (0, 0))
        if current == before:
            for stored_id in changed:
                self._records.pop((namespace_id, since, stored_id), None)
            self._versions[namespace_id] = version, since
