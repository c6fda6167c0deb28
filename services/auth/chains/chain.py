"""Asks links in order: an absent credential falls through, a rejected or expired one ends the chain."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from services.auth.chains.link import Answer, Link, Wanted
from services.auth.domain import LinkOutcome


@dataclass(frozen=True, slots=True)
class Step:
    """A link and what it said."""

    link: str
    answer: Answer


class Chain:
    """The links of one purpose."""

    def __init__(self, links: Sequence[Link]) -> None:
        self._links = tuple(links)

    @property
    def links(self) -> tuple[str, ...]:
        """The names of all links, in the order they are asked."""
        return tuple(link.name for link in self._links)

    async def ask(self, wanted: Wanted) -> AsyncIterator[Step]:
        """Yield what each link says that is asked; only the last one may say anything but absent.

        Raises:
            CoxswainError: as `Link.ask`.
        """
        for link in self._links:
            answer = await link.ask(wanted)
            yield Step(link.name, answer)
            if answer.outcome is not LinkOutcome.ABSENT:
                return
