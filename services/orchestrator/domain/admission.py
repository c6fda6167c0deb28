"""Which of the waiting executions a worker host may take."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waiting:
    """An execution that waits for a worker host."""

    execution_id: str
    place: int
    """How many of its group run at once when it does: those that run, those before it in the group's line, itself."""
    lost: bool = False
    """Whether the host that ran it was lost."""


@dataclass(frozen=True, slots=True)
class Room:
    """How many executions more a worker host can run."""

    free: int
    """Slots that are free for any group."""
    reserved: int
    """Slots beyond these, free for groups that have nothing running: no group can keep another one waiting."""
    group_limit: int | None
    """Executions of one group that may run at once on all hosts; None means as many as there are slots."""

    @property
    def total(self) -> int:
        """How many executions may be taken at most."""
        return self.free + self.reserved

    def admit(self, line: Iterable[Waiting]) -> list[Waiting]:
        """Return those of the line that may run. The line is in fair order: lowest place first."""
        free, reserved = self.free, self.reserved
        admitted: list[Waiting] = []
        for waiting in line:
            if self.group_limit is not None and waiting.place > self.group_limit:
                continue
            if free:
                free -= 1
            elif reserved and waiting.place == 1:
                reserved -= 1
            else:
                continue
            admitted.append(waiting)
        return admitted


def group_limit_of(share: float, slots: int, at_most: int | None) -> int:
    """Return how many executions of one group may run at once, by its share of the slots of all hosts."""
    limit = max(1, math.ceil(share * slots))
    return limit if at_most is None else min(limit, at_most)


def room_of(running: int, slots: int, reserved_slots: int, group_limit: int | None) -> Room:
    """Return the room of a host that runs some executions."""
    free = max(0, slots - running)
    return Room(free, max(0, slots + reserved_slots - running - free), group_limit)
