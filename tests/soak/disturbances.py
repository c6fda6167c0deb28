"""What is done to processes while they work: one thing at a time, so that one replica is always there."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from tests.soak.replicas import Replica, Replicas

_PAUSE_SECONDS = 5.0
"""Between two disturbances."""
_FROZEN_SECONDS = 4.0
OFTEN = {"kill": 5, "stop": 3, "freeze": 2, "database": 1, "roll": 1}
"""What is done, and how often among all that is done."""


class Disturbances:
    """Disturbs processes at random until told to stop. For a thread of its own."""

    def __init__(
        self, replicas: Replicas, kinds: Sequence[str], dice: random.Random, say: Callable[[str], None]
    ) -> None:
        """`kinds` are some of `OFTEN`; `say` is given a line about each disturbance."""
        self._replicas = replicas
        self._kinds = kinds
        self._dice = dice
        self._say = say
        self._stopping = threading.Event()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        """Processes that did not end or start as they should."""

    def run(self) -> None:
        """Disturb until `stop`, then leave all replicas running."""
        by_kind = {
            "kill": self._kill,
            "stop": self._terminate,
            "freeze": self._freeze,
            "database": self._database,
            "roll": self._roll,
        }
        acts = [by_kind[kind] for kind in self._kinds for _ in range(OFTEN[kind])]
        deck: list[Callable[[], None]] = []
        while not self._stopping.wait(_PAUSE_SECONDS):
            if not deck:
                # Each comes as often as it stands there, however short the run.
                deck = self._dice.sample(acts, len(acts))
            deck.pop()()

    def stop(self) -> None:
        """End after the disturbance that is going on."""
        self._stopping.set()

    def look(self) -> None:
        """Note each replica that has ended by itself."""
        self.wrong += [
            f"{place.name} has ended by itself:\n{place.running.tail}"
            for place in self._replicas.places
            if not place.running.running
        ]

    def _living(self) -> Replica:
        self.look()
        return self._dice.choice([place for place in self._replicas.places if place.running.running])

    def _kill(self) -> None:
        place = self._living()
        place.kill()
        self._start_again(place, "killed")

    def _terminate(self) -> None:
        self._stop_and_start(self._living(), "stopped")

    def _freeze(self) -> None:
        place = self._living()
        with place.frozen():
            time.sleep(_FROZEN_SECONDS)
        self._note("frozen", f"{place.name} was frozen for {_FROZEN_SECONDS:g} s")

    def _database(self) -> None:
        mode = self._dice.choice(["fast", "immediate"])
        began = time.monotonic()
        self._replicas.restart_database(mode)
        self._note("database", f"PostgreSQL restarted ({mode}) in {time.monotonic() - began:.1f} s")

    def _roll(self) -> None:
        for place in self._replicas.places:
            self._stop_and_start(place, "rolled")

    def _stop_and_start(self, place: Replica, what: str) -> None:
        code = place.terminate()
        if code:
            self.wrong.append(f"{place.name} ended with {code} at SIGTERM:\n{place.running.tail}")
        self._start_again(place, what)

    def _start_again(self, place: Replica, what: str) -> None:
        began = time.monotonic()
        try:
            place.start()
        except AssertionError as error:
            self.wrong.append(f"{place.name} did not come back: {error}")
            place.kill()
            place.start()
        self._note(what, f"{place.name} {what}, back after {time.monotonic() - began:.1f} s")

    def _note(self, kind: str, line: str) -> None:
        self.counts[kind] += 1
        self._say(line)
