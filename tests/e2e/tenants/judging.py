"""Whether anything of another group has got through: in what came back, in how it came back, or in what is stored."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict

from tests.e2e.tenants.api import Outcome
from tests.e2e.tenants.attempts import Attempt, Twins
from tests.e2e.tenants.world import World
from tests.support.marked_secrets import MarkedSecrets

_OPAQUE = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"  # ids
    r"|\d{4}-\d\d-\d\dT[\d:.]+Z"  # times
    r"|\b[\d.]+s\b"  # durations
    r"|[A-Za-z0-9_=-]{24,}"  # hashes and tokens
    r"|fresh[0-9a-f]{12}"
)
_DIFFER = frozenset(
    {"revision", "sequence", "position", "nextPageToken", "requestId", "score", "inputTokens", "calls", "signingKey"}
)
"""Fields that differ between any two calls, of new random words too, or where one text need not be embedded twice."""


class Judge:
    """Looks at what attempts came to."""

    def __init__(self, world: World, twins: Twins) -> None:
        self._world = world
        self._twins = twins
        self._marked = MarkedSecrets()
        self._marked.add("a text of theirs", world.told)
        self._ids = [value.encode() for value in world.unheard_of]
        self.codes: Counter[str] = Counter()

    def faults(self, attempt: Attempt, foreign: Outcome, twin: Outcome) -> Iterator[str]:
        """Yield what is wrong with the two outcomes of an attempt."""
        self.codes[foreign.code] += 1
        yield from self.faults_of(attempt, foreign, twin)
        if not self.alike(foreign, twin):
            forms = self.form_of(foreign), self.form_of(twin)
            yield f"{attempt}: theirs\n    {forms[0]}\n  and what never was\n    {forms[1]}"

    def faults_of(self, attempt: Attempt, *outcomes: Outcome) -> Iterator[str]:
        """Yield what is wrong with each outcome of an attempt by itself."""
        for outcome in outcomes:
            if outcome.code in {"INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "UNAVAILABLE"}:
                yield f"{attempt}: {outcome.code} {outcome.text}"
            for found in self.leaks(outcome.raw):
                yield f"{attempt}: {found} in {outcome}"

    def alike(self, foreign: Outcome, twin: Outcome) -> bool:
        """Return whether nobody can tell two outcomes apart."""
        return bool(self.form_of(foreign) == self.form_of(twin))

    def leaks(self, raw: Sequence[bytes]) -> Iterator[str]:
        """Yield what of theirs stands in contents that ours has got."""
        for content in raw:
            yield from self._marked.found_in(content)
            yield from (f"the id {value.decode()}" for value in self._ids if value in content)

    def form_of(self, outcome: Outcome) -> Any:
        """Return an outcome without what differs between equal calls, and without the values that were asked for."""
        answers: list[Any] = [MessageToDict(answer) for answer in outcome.answers]
        # An answer comes in as many pieces as it happens to.
        whole = "".join(answer.pop("text", "") for answer in answers)
        answers = [answer for answer in (*answers, {"text": whole}) if answer]
        return self._form([outcome.code, outcome.text, list(outcome.details), answers])

    def _form(self, value: Any) -> Any:
        match value:
            case Mapping():
                return {self._form(key): self._form(inner) for key, inner in value.items() if key not in _DIFFER}
            case list():
                # Of equal lists only the order may differ: names sort in another order than what they are covered by.
                return sorted((self._form(inner) for inner in value), key=repr)
            case str():
                return _OPAQUE.sub("<opaque>", self._twins.hidden(value))
            case float():
                return "<number>"
        return value
