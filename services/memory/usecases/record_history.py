"""What records said before: how long a group keeps it, who sees it, and when it is pruned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from services.common.cache import AsyncCache
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import FailedPrecondition, FieldViolation, InvalidArgument, NotFound
from services.common.identity.principal import Principal
from services.common.paging import PAGE_BYTES, bad_page_token, decode_page_token, encode_page_token, page_size
from services.memory.domain.filters import EVERYTHING, Filter
from services.memory.domain.history import HistoryPolicy, Keeping, RecordVersion
from services.memory.domain.namespaces import NamespaceKey
from services.memory.domain.owners import named_for
from services.memory.domain.records import MemoryKind, Record
from services.memory.repositories.history_policies import HistoryPolicyRepository
from services.memory.stores.base import KeepsHistory, MemoryStore
from services.memory.stores.group_stores import BackendStores
from services.memory.usecases.namespaces import namespace_key
from services.memory.usecases.record_pages import ENVELOPE_BYTES, fitting

_LISTING = "versions of a record"
_GROUPS_KEPT = 10_000
_POLICY_SECONDS: Final = 1.0
"""How long after SetHistoryPolicy other replicas may still follow the policy before."""
_GROUPS_AT_ONCE = 100
_DAY: Final = timedelta(days=1)
_CLOCKS_DIFFER: Final = timedelta(hours=1)
"""How far the clocks of replicas may be apart."""
_VERSION_BYTES = 8 * 1024
"""What stands beside the record of a version, at most, but for its savers."""


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """What the installation sets."""

    default_days: int
    """0 keeps nothing of groups that have not set a policy."""
    most_days: int
    versions: int
    """Of one record."""
    most_bytes: int
    """Of one group."""


@dataclass(frozen=True, slots=True)
class VersionsInput:
    """Whose versions to list, and which page of them."""

    record_id: str
    seen: Filter
    """Which private ones are asked for."""
    page_size: int
    page_token: str


class RecordHistory:
    """The history of the calling principal's group."""

    def __init__(
        self, stores: BackendStores, database: Database, limits: HistoryLimits, *, max_message_bytes: int
    ) -> None:
        self._stores = stores
        self._database = database
        self.limits = limits
        self._max_bytes = max_message_bytes - ENVELOPE_BYTES
        self._days: AsyncCache[str, int | None] = AsyncCache(_GROUPS_KEPT, _POLICY_SECONDS)
        self._measured_at: datetime | None = None

    async def keeping(self, principal: Principal, *, purge: bool = False) -> Keeping:
        """Return what a change by the principal keeps."""
        policy = await self.policy(principal)
        most = self.limits.versions if policy.days else 0
        return Keeping(principal.subject, most, policy.days, purge, self.limits.most_bytes)

    async def kept_days(self, principal: Principal, store: MemoryStore, kind: MemoryKind) -> int:
        """Return for how many days a store keeps what is deleted now."""
        kept = isinstance(store, KeepsHistory) and kind is not MemoryKind.DOCUMENT
        return (await self.policy(principal)).days if kept else 0

    async def policy(self, principal: Principal) -> HistoryPolicy:
        """Return the policy of the principal's group."""

        async def read() -> int | None:
            async with self._database.read() as connection:
                return await HistoryPolicyRepository(connection).days(principal.group_id)

        return self._policy_of(await self._days.get(principal.group_id, read))

    async def set_policy(self, principal: Principal, days: int | None) -> HistoryPolicy:
        """Set for how many days the group keeps versions; None: as long as the installation's default says.

        Raises:
            InvalidArgument: the installation does not allow so many.
        """
        if days is not None and days > self.limits.most_days:
            raise InvalidArgument.field(
                "days", f"is {days:,}; this installation keeps versions for at most {self.limits.most_days:,} days"
            )
        async with self._database.write() as connection:
            policies = HistoryPolicyRepository(connection)
            if days is None:
                await policies.delete(principal.group_id)
            else:
                await policies.set(principal.group_id, days, utc_now())
        self._days.forget(principal.group_id)
        return self._policy_of(days)

    def _policy_of(self, own: int | None) -> HistoryPolicy:
        days = self.limits.default_days if own is None else own
        return HistoryPolicy(min(days, self.limits.most_days), own is None)

    async def versions(
        self, principal: Principal, memory_id: str, kind: MemoryKind, listing: VersionsInput
    ) -> tuple[Sequence[RecordVersion], str, int]:
        """Return the next versions, newest first, the token of the next page, and for how many days they are kept.

        Raises:
            InvalidArgument: the token is not of this list, or documents are meant.
            FailedPrecondition: the group's store keeps no history.
            PermissionDenied: private ones of everybody are asked for without the role EDITOR.
        """
        key = namespace_key(principal, memory_id, kind)
        identity: Mapping[str, object] = {
            "group": key.group_id,
            "memory": memory_id,
            "kind": kind.name,
            "id": listing.record_id,
        }
        match decode_page_token(listing.page_token, _LISTING, identity):
            case None:
                before = None
            case [int(before)] if 0 < before < 1 << 62:
                pass
            case _:
                raise bad_page_token()
        chosen = named_for(principal, listing.seen)
        store, plain = await self._store(key)
        policy = await self.policy(principal)
        if not policy.days or await self._is_hidden(plain, key, listing.record_id, chosen):
            return [], "", policy.days
        wanted = page_size(listing.page_size)
        since = utc_now() - policy.days * _DAY
        found, more = await store.history.versions(key, listing.record_id, chosen, since, before, wanted)
        room = min(PAGE_BYTES, self._max_bytes - _beside(found))
        shown = found[: fitting([version.record for version in found], room)]
        if (more or len(shown) < len(found)) and shown:
            return shown, encode_page_token(_LISTING, identity, [shown[-1].place]), policy.days
        return shown, "", policy.days

    async def at(
        self, principal: Principal, memory_id: str, kind: MemoryKind, record_id: str, seen: Filter, moment: datetime
    ) -> Record:
        """Return a record as it was at a moment, without its vector.

        Raises:
            NotFound: there was none then, or the history does not know any more.
            FailedPrecondition: the group's store keeps no history.
            PermissionDenied: private ones of everybody are asked for without the role EDITOR.
        """
        key = namespace_key(principal, memory_id, kind)
        chosen = named_for(principal, seen)
        store, plain = await self._store(key)
        days, now = (await self.policy(principal)).days, utc_now()
        found = None
        if not await self._is_hidden(plain, key, record_id, chosen):
            found = await store.history.at(key, record_id, chosen, now - days * _DAY, moment, now)
        if found is None:
            raise NotFound(
                f'there was no memory "{record_id}" at that time in your group, or the history, which reaches {days} '
                "days back, does not know it any more",
                metadata={"resource": "memory", "id": record_id},
            )
        return found

    async def _store(self, key: NamespaceKey) -> tuple[KeepsHistory, MemoryStore]:
        if key.kind is MemoryKind.DOCUMENT:
            raise InvalidArgument.field("namespace.kind", "documents have no history: they are replaced as a whole")
        store = await self._stores.of(key.group_id, key.kind)
        if not isinstance(store, KeepsHistory):
            raise FailedPrecondition(
                "the group's memory backend keeps no history of records; the default store and pgvector do",
                reason="INVALID_FIELD",
                violations=(FieldViolation("namespace", "the active backend keeps no history"),),
            )
        return store, store

    async def _is_hidden(self, store: MemoryStore, key: NamespaceKey, record_id: str, chosen: Filter) -> bool:
        """Return whether the record is somebody else's private one now: then nobody is told that it ever was there."""
        now = utc_now()
        if await store.get(key, [record_id], now, embeddings=False, chosen=chosen):
            return False
        return bool(await store.get(key, [record_id], now, embeddings=False, chosen=EVERYTHING))

    async def prune(self) -> int:
        """Remove the versions that have been kept for as long as their groups want, or that are too many bytes.

        Returns how many.
        """
        now, after, pruned = utc_now(), "", 0
        store = self._stores.default
        if not isinstance(store, KeepsHistory):
            return 0
        while True:
            async with self._database.read() as connection:
                policies = await HistoryPolicyRepository(connection).page(after, _GROUPS_AT_ONCE)
            for group_id, days in policies:
                pruned += await store.history.prune(now - self._policy_of(days).days * _DAY, group_id)
            if len(policies) < _GROUPS_AT_ONCE:
                break
            after = policies[-1][0]
        pruned += await store.history.prune(now - self._policy_of(None).days * _DAY, None)
        # Who has changed nothing since has no more than before.
        since = self._measured_at and self._measured_at - _CLOCKS_DIFFER
        pruned += await store.history.shrink(self.limits.most_bytes, since)
        self._measured_at = now
        return pruned


def _beside(found: Sequence[RecordVersion]) -> int:
    """Return what a page of versions takes beside its records, at most."""
    names = sum(len(name.encode()) + 16 for version in found for name in version.record.subjects)
    return names + _VERSION_BYTES + len(found) * 2048
