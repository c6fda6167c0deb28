"""Asks links in order: an absent credential falls through, a rejected or expired one ends the chain."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from services.auth.chains.link import Answer, CredentialRequest, Link
from services.auth.domain import LinkOutcome


@dataclass(frozen=True, slots=True)
class Step:
    """A link and its answer."""

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

    async def ask(self, request: CredentialRequest) -> AsyncIterator[Step]:
        """Yield the answer of each link that is asked; only the last one can be other than ABSENT.

        Raises:
            CoxswainError: as `Link.ask`.
        """
        for link in self._links:
            answer = await link.ask(request)
            yield Step(link.name, answer)
            if answer.outcome is not LinkOutcome.ABSENT:
                return
