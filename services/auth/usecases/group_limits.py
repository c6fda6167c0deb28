"""What the operator allows groups."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncConnection

from services.auth.domain import Group
from services.auth.repositories.group_limits import LOWERED, OPERATORS, GroupLimitRepository, read_limits
from services.auth.repositories.groups import GroupRepository, read_existing
from services.auth.repositories.members import MemberRepository
from services.auth.repositories.secrets import SecretRepository
from services.auth.usecases.group_traffic import SharedGroupTraffic
from services.common.cache import AsyncCache
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import FieldViolation, InvalidArgument, NotFound, PermissionDenied
from services.common.identity.group_limits import LIMIT_NAMES, NO_GROUP_LIMITS, UNLIMITED, GroupLimits
from services.common.identity.principal import Principal, Role

_CACHE_SIZE = 10_000
# Other replicas of auth change limits as well.
_CACHE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class LimitsInUse:
    """The limits of a group."""

    group_id: str
    effective: GroupLimits
    """Those that count."""
    set: GroupLimits
    """What is set for the group; -1 is unlimited."""
    lowered: GroupLimits
    """What the group's admins have set, None where they have lowered nothing."""
    used: GroupLimits = NO_GROUP_LIMITS
    """How much of them is used, where auth knows it."""


class LimitsOfGroups:
    """Stores limits, and gives them out with principals."""

    def __init__(self, database: Database, defaults: GroupLimits, *, make_missing: bool) -> None:
        """`defaults` count where nothing is set; with `make_missing`, groups need not be stored before (dev mode)."""
        self._database = database
        self._defaults = defaults
        self._make_missing = make_missing
        self._cache = AsyncCache[str, tuple[GroupLimits, GroupLimits]](_CACHE_SIZE, _CACHE_SECONDS)
        self._changed: list[Callable[[str], None]] = []

    def on_change(self, act: Callable[[str], None]) -> None:
        """Have `act` called with the id of each group whose limits this process changes."""
        self._changed.append(act)

    async def of(self, group_id: str) -> GroupLimits:
        """Return the limits that count for a group.

        Raises:
            Unavailable: the database does not answer.
        """
        if not group_id:
            return GroupLimits()
        return self._effective(*await self._cache.get(group_id, lambda: read_limits(self._database, group_id)))

    async def with_limits(self, principal: Principal) -> Principal:
        """Return a principal with the limits of its group."""
        return replace(principal, limits=await self.of(principal.group_id))

    async def set(
        self, group_id: str, given: GroupLimits, names: Collection[str], cleared: Collection[str] = ()
    ) -> LimitsInUse:
        """Change the limits of a group that are named, to what is given; None there is the default again.

        Those of `cleared` are no longer lowered by the group's admins.

        Raises:
            NotFound: the group does not exist.
            InvalidArgument: a value is negative and not -1.
        """
        values: Mapping[str, float | None] = {name: getattr(given, name) for name in LIMIT_NAMES if name in names}
        for name, value in values.items():
            if value is not None and value < 0 and value != UNLIMITED:
                raise InvalidArgument.field(
                    f"limits.{name}", f"is {value:g}; it must be at least 0, or -1 for unlimited"
                )
        async with self._database.write() as connection:
            await self._hold(connection, group_id)
            standing = await GroupLimitRepository(connection, OPERATORS).change(group_id, values)
            lowered = await GroupLimitRepository(connection, LOWERED).change(group_id, dict.fromkeys(cleared))
        return self._changed_to(group_id, standing, lowered)

    async def lower(self, group_id: str, given: GroupLimits, names: Collection[str]) -> LimitsInUse:
        """Change what a group's admins have lowered, to what is given; None there is the operator's limit again.

        Raises:
            NotFound: the group does not exist.
            InvalidArgument: a value is negative or above the operator's, or would refuse every call of the group.
        """
        values: Mapping[str, float | None] = {name: getattr(given, name) for name in LIMIT_NAMES if name in names}
        async with self._database.write() as connection:
            await self._hold(connection, group_id)
            standing = await GroupLimitRepository(connection, OPERATORS).get(group_id)
            _check_lowered(values, self._effective(standing, NO_GROUP_LIMITS))
            lowered = await GroupLimitRepository(connection, LOWERED).change(group_id, values)
        return self._changed_to(group_id, standing, lowered)

    async def _hold(self, connection: AsyncConnection, group_id: str) -> None:
        """Let changes of one group's limits wait for each other."""
        groups = GroupRepository(connection)
        if self._make_missing:
            await groups.add(Group(group_id, group_id, utc_now()))
        if not await groups.lock(group_id):
            raise _no_group(group_id)

    def _changed_to(self, group_id: str, standing: GroupLimits, lowered: GroupLimits) -> LimitsInUse:
        self._cache.forget(group_id)
        for act in self._changed:
            act(group_id)
        return LimitsInUse(group_id, self._effective(standing, lowered), standing, lowered)

    async def get(self, principal: Principal, group_id: str, traffic: SharedGroupTraffic) -> LimitsInUse:
        """Return the limits of a group, the caller's own when `group_id` is empty.

        Raises:
            PermissionDenied: ROLE_REQUIRED, it is another group than the caller's.
            InvalidArgument: the caller is in no group, and names none.
            NotFound: the group does not exist.
        """
        if group_id and group_id != principal.group_id and not principal.platform_admin:
            raise PermissionDenied(
                "the limits of another group are shown to platform admins alone; leave group_id empty for your own",
                reason="ROLE_REQUIRED",
                metadata={"required": Role.PLATFORM_ADMIN.name, "actual": principal.role.name},
            )
        group_id = group_id or principal.group_id
        if not group_id:
            raise InvalidArgument.field("group_id", "name a group, as you are in none")
        # In dev mode a caller's own group need not be stored.
        needless = self._make_missing and group_id == principal.group_id
        if not needless and not await read_existing(self._database, {group_id}):
            raise _no_group(group_id)
        standing, lowered = await read_limits(self._database, group_id)
        effective = self._effective(standing, lowered)
        calls, streams = await traffic.used(group_id, effective)
        async with self._database.read() as connection:
            used = GroupLimits(
                calls_per_minute=calls,
                max_open_streams=streams,
                max_members=await MemberRepository(connection).count(group_id),
                max_secrets=await SecretRepository(connection).count(group_id),
            )
        return LimitsInUse(group_id, effective, standing, lowered, used)

    def _effective(self, standing: GroupLimits, lowered: GroupLimits) -> GroupLimits:
        values: dict[str, float] = {}
        for name in LIMIT_NAMES:
            value = getattr(standing, name)
            if value is None:
                value = getattr(self._defaults, name)
            if value is not None and value >= 0:
                values[name] = value
        operators = GroupLimits.from_claim(values)
        for name, value in lowered.to_claim().items():
            ceiling = _ceiling(operators, name)
            values[name] = value if ceiling is None else min(value, ceiling)
        return GroupLimits.from_claim(values)


def _ceiling(operators: GroupLimits, name: str) -> float | None:
    """Return what a group may lower a limit to at most; None: to anything."""
    ceiling: float | None = getattr(operators, name)
    if name == "calls_burst" and ceiling is None:
        # Without a burst of its own the limit of calls is one.
        ceiling = operators.calls_per_minute
    return ceiling


def _check_lowered(values: Mapping[str, float | None], operators: GroupLimits) -> None:
    violations = []
    for name, value in values.items():
        if value is None:
            continue
        ceiling, least = _ceiling(operators, name), int(name == "calls_per_minute")
        if value < least:
            because = ", as 0 would refuse every call of the group" if least else ""
            violations.append(FieldViolation(f"limits.{name}", f"is {value:g}; it must be at least {least}{because}"))
        elif ceiling is not None and value > ceiling:
            text = f"is {value:.15g}, above the operator's {ceiling:.15g}; choose at most that, or ask the operator"
            violations.append(FieldViolation(f"limits.{name}", f"{text} of this installation for more"))
    if violations:
        raise InvalidArgument.fields(violations)


def _no_group(group_id: str) -> NotFound:
    return NotFound(f'there is no group "{group_id}"', metadata={"resource": "group", "id": group_id})
