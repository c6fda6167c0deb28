"""How much a listener works on at once: calls and streams apart, so that no stream takes a call's place."""

import contextlib
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from services.common.errors import ResourceExhausted
from services.common.grpc.metrics import REFUSED
from services.common.identity.principal import Principal

_RETRY_SECONDS = 1.0
_HEALTH_STREAMS, _HEALTH_STREAMS_OF_PEER = 2000, 500
_REFLECTION_STREAMS, _REFLECTION_STREAMS_OF_PEER = 200, 20


class Places:
    """A number of places for everybody with the same key."""

    def __init__(self, what: str, most: int) -> None:
        """`what` is counted, in words. Example: "open streams of one group"."""
        self._what = what
        self._most = most
        self._held: dict[Hashable, int] = {}
        REFUSED.labels(what)

    def held(self, key: Hashable = None) -> int:
        """Return how many places are held."""
        return self._held.get(key, 0)

    def held_by_others(self, key: Hashable) -> bool:
        """Return whether anybody with another key holds a place."""
        return len(self._held) > (key in self._held)

    def one_for(self, key: Hashable = None) -> contextlib.AbstractContextManager[None]:
        """Hold a place.

        Raises:
            ResourceExhausted: OVERLOADED, there is none left, when the context is entered.
        """
        return _Place(self, key)

    def take(self, key: Hashable) -> None:
        """Take a place, which has to be given back; see `one_for`."""
        held = self._held.get(key, 0)
        if held >= self._most:
            REFUSED.labels(self._what).inc()
            raise ResourceExhausted(
                f"there are {self._most:,} {self._what} already, which is the limit; end some, or try again",
                reason="OVERLOADED",
                metadata={"limit": str(self._most), "counted": self._what},
                retry_after=_RETRY_SECONDS,
            )
        self._held[key] = held + 1

    def give_back(self, key: Hashable) -> None:
        """Give a place back that was taken."""
        left = self._held[key] - 1
        if left:
            self._held[key] = left
        else:
            del self._held[key]


class _Place(contextlib.AbstractContextManager[None]):
    """One place. A class, as each call takes several: a generator costs three times as much."""

    __slots__ = ("_key", "_places")

    def __init__(self, places: Places, key: Hashable) -> None:
        self._places = places
        self._key = key

    def __enter__(self) -> None:
        self._places.take(self._key)

    def __exit__(self, *_raised: object) -> None:
        self._places.give_back(self._key)


@dataclass(frozen=True, slots=True)
class Capacity:
    """The places of one listener."""

    calls: Places
    """For calls that are answered once."""
    group_calls: Places
    streams: Places
    group_streams: Places
    subject_streams: Places

    @staticmethod
    def of(*, calls: int, group_calls: int, streams: int, group_streams: int, subject_streams: int) -> "Capacity":
        """Return places for so many at once."""
        return Capacity(
            Places("calls under way", calls),
            Places("calls of one group under way", group_calls),
            Places("open streams", streams),
            Places("open streams of one group", group_streams),
            Places("open streams of one subject", subject_streams),
        )

    def stream_of(self, principal: Principal) -> contextlib.ExitStack:
        """Hold what a stream takes of its group's and its subject's places, until the result is closed.

        Raises:
            ResourceExhausted: OVERLOADED.
        """
        with contextlib.ExitStack() as places:
            places.enter_context(self.subject_streams.one_for((principal.group_id, principal.subject)))
            places.enter_context(self.group_streams.one_for(principal.group_id))
            return places.pop_all()


def host_of(peer: str) -> str:
    """Return the host of a peer as gRPC names it; empty for a socket of this machine, which all share."""
    return peer.rpartition(":")[0] if peer.startswith("ip") else ""


@dataclass(frozen=True, slots=True)
class AnonymousStreams:
    """Places for streams that anybody may open: altogether, and from one host."""

    everybody: Places
    peer: Places = field(repr=False)

    @contextlib.contextmanager
    def one_for(self, peer: str) -> Iterator[None]:
        """Hold a place for a peer as gRPC names it. Example: "ipv4:192.0.2.1:50123".

        Raises:
            ResourceExhausted: OVERLOADED.
        """
        host = host_of(peer)
        with contextlib.ExitStack() as places:
            if host:
                places.enter_context(self.peer.one_for(host))
            places.enter_context(self.everybody.one_for())
            yield


def health_streams() -> AnonymousStreams:
    """Return the places of those who watch a listener's health."""
    return AnonymousStreams(
        Places("watchers of health", _HEALTH_STREAMS),
        Places("watchers of health from one host", _HEALTH_STREAMS_OF_PEER),
    )


def reflection_streams() -> AnonymousStreams:
    """Return the places of those who ask a listener what it serves."""
    return AnonymousStreams(
        Places("streams of reflection", _REFLECTION_STREAMS),
        Places("streams of reflection from one host", _REFLECTION_STREAMS_OF_PEER),
    )
