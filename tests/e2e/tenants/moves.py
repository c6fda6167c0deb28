"""Attempts of one who was in theirs a moment ago, through moves between groups and changes of role in mid-stream."""

import random
import threading
from collections.abc import Iterator, Sequence

import grpc
from google.protobuf.message import Message

from services.common.grpc.access import read_access
from services.common.identity.principal import Role
from tests.e2e.tenants.api import Api, Outcome, message_of
from tests.e2e.tenants.attempts import HEADER, Attempts, Twins
from tests.e2e.tenants.judging import Judge
from tests.e2e.tenants.references import public_rpcs
from tests.e2e.tenants.requests import UNENDING, base_request
from tests.e2e.tenants.things import Group
from tests.e2e.tenants.world import World
from tests.support.installation import wait_until

_MOVER = "mover"
_SUBJECT = f"dev|{_MOVER}"
_KEEPER = "keeper"
"""An admin of both groups, as nobody leaves a group as its last one."""
_ROLES = (Role.OPERATOR, Role.EDITOR, Role.ADMIN)
_REFUSED = frozenset({"PERMISSION_DENIED", "FAILED_PRECONDITION", "UNAUTHENTICATED"})
_PROBES = {
    Role.OPERATOR: "CrewService.ListCrews",
    Role.EDITOR: "WebhookService.ListWebhooks",
    Role.ADMIN: "SecretService.ListSecrets",
}
"""Methods that change nothing, by the least role that may call them."""


class _Stream:
    """A stream that is read to its end, beside everything else."""

    def __init__(self, api: Api, name: str, request: Message) -> None:
        self.name = name
        self.outcome: Outcome | None = None
        self._thread = threading.Thread(target=self._read, args=(api, request), daemon=True)
        self._thread.start()

    def _read(self, api: Api, request: Message) -> None:
        self.outcome = api.call(self.name, request)


class Moves:
    """One member who goes from theirs to ours again and again, while what they have opened in theirs goes on."""

    def __init__(self, world: World, twins: Twins, judge: Judge, seed: int) -> None:
        self._ours, self._theirs = world.ours, world.theirs
        self._judge = judge
        self._api = Api(world.ours.api.channel_of, f"dev:{_MOVER}")
        self._random = random.Random(seed)
        self._attempts = Attempts(world.ours, world.theirs, twins, seed)
        self.made = 0
        self.ended = 0
        """Streams that were open when they moved."""

    def faults(self, rounds: int, attempts: int) -> Iterator[str]:
        """Yield what gets through in so many moves, with so many attempts after each."""
        keeper = Api(self._ours.api.channel_of, f"dev:{_KEEPER}")
        for group in (self._ours, self._theirs):
            self._invite(group, Role.ADMIN, _KEEPER)
            _accept(keeper, group)
        for _ in range(rounds):
            self._join(self._theirs, Role.ADMIN)
            opened = [_Stream(self._api, name, self._watching(name)) for name in sorted(UNENDING)]
            role = self._random.choice(_ROLES)
            self._leave(self._theirs)
            self._join(self._ours, role)
            # What happens in theirs from now on, no stream of theirs may tell.
            self._theirs.api.ok("ExecutionService.StartExecution", crew_id=self._theirs.one("crew_id"))
            yield from self._faults_of(opened)
            yield from self._attempted(role, attempts // 2)
            role = self._random.choice([other for other in _ROLES if other is not role])
            self._invite(self._ours, role)
            self._wait_for(role)
            yield from self._attempted(role, attempts - attempts // 2)
            self._leave(self._ours)

    def _watching(self, name: str) -> Message:
        """Return a request for a stream of theirs that has no end."""
        fields = dict(base_request(name, self._theirs)[0])
        if name == "ExecutionService.WatchExecution":
            found = self._theirs.api.ok("ExecutionService.ListExecutions").executions
            fields["id"] = next(
                one.id
                for one in found
                if one.id in self._theirs.values["execution_id"] and not one.HasField("end_time")
            )
        return message_of(name, **fields)

    def _join(self, group: Group, role: Role) -> None:
        self._invite(group, role)
        _accept(self._api, group)
        self._wait_for(role)

    def _invite(self, group: Group, role: Role, name: str = _MOVER) -> None:
        group.api.ok("GroupService.SetMember", subject=f"dev|{name}", role=f"ROLE_{role.name}")

    def _leave(self, group: Group) -> None:
        """End the membership: an admin does, or they do by themselves."""
        api = self._random.choice((group.api, self._api))
        api.ok("GroupService.RemoveMember", subject=_SUBJECT)
        # Until all have heard of it, within seconds, what they do still counts in that group.
        wait_until(lambda: self._probe(Role.OPERATOR) != "OK", "they are in no group")

    def _wait_for(self, role: Role) -> None:
        expected = [role >= least for least in _PROBES]
        wait_until(lambda: [self._probe(least) == "OK" for least in _PROBES] == expected, f"they are {role.name}")

    def _probe(self, least: Role) -> str:
        return self._api.call(_PROBES[least], message_of(_PROBES[least])).code

    def _faults_of(self, opened: Sequence[_Stream]) -> Iterator[str]:
        wait_until(lambda: all(stream.outcome is not None for stream in opened), "streams of theirs have ended")
        for stream in opened:
            self.ended += 1
            if stream.outcome is None or stream.outcome.code not in _REFUSED or not stream.outcome.reason:
                yield f"{stream.name} ended with {stream.outcome} after a move"

    def _attempted(self, role: Role, number: int) -> Iterator[str]:
        for attempt in self._attempts.mixed(number):
            self.made += 1
            take = 1 if attempt.method in UNENDING else 0
            outcome = self._api.call(attempt.method, attempt.foreign, take=take, headers=attempt.foreign_headers)
            yield from self._judge.faults_of(attempt, outcome)
            least = read_access(public_rpcs()[attempt.method]).role
            if least > role and outcome.code != grpc.StatusCode.PERMISSION_DENIED.name:
                yield f"{attempt} by {role.name}: {outcome}"


def _accept(api: Api, group: Group) -> None:
    """Accept an invitation: a call that names the group does."""
    name = _PROBES[Role.OPERATOR]
    wait_until(
        lambda: api.call(name, message_of(name), headers=((HEADER, group.name),)).code == "OK", "they have joined"
    )
