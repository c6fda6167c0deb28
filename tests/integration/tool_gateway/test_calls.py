"""Each call is made once, whoever asks how often, and whatever process dies meanwhile."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select, update

from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import Unauthenticated, Unavailable
from services.common.identity.service_identity import ServiceIdentity
from services.orchestrator.domain.gateway_call import CallKey, GatewayCall
from services.orchestrator.domain.tool import ToolCallState
from services.orchestrator.domain.tool_outcome import Failed, Returned, Unknown
from services.orchestrator.repositories.gateway_calls import GatewayCallRepository
from services.orchestrator.repositories.journal import JournalRepository, ToolCall
from services.orchestrator.tables import gateway_calls
from services.orchestrator.tool_gateway.ports import (
    CallProgress,
    CallRefused,
    CredentialExpired,
    NeverSeen,
    NotSent,
    OutcomeUnknown,
    SourceAnswer,
    SourceQuestion,
    ToolCallRequest,
    ToolResult,
)
from services.orchestrator.tool_gateway.usecases.call_board import Asked, Ended, Sign
from tests.integration.tool_gateway.support import WAIT_SECONDS, PlayedSource, Replica, key_of, order, running
from tests.integration.worker.rows import queue
from tests.support.waiting import longer, until

SECRET = "marked-result-51c2"
USECASES = "services.orchestrator.tool_gateway.usecases"


async def _pay(request: ToolCallRequest, progress: CallProgress) -> ToolResult:
    await progress.sent()
    return ToolResult(f"paid {SECRET}")


async def _cannot_tell(request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
    raise OutcomeUnknown("this source keeps nothing")


def held(gate: asyncio.Event, started: asyncio.Event, *, sent: bool = True) -> "PlayedSource":
    """Return a source that pays when the gate opens."""

    async def call(request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        if sent:
            await progress.sent()
        started.set()
        await gate.wait()
        await progress.sent()
        return ToolResult("paid")

    return PlayedSource(call, _cannot_tell)


async def test_a_repeated_call_returns_what_the_first_one_did(database: Database, identity: ServiceIdentity) -> None:
    replica = Replica(database, identity, PlayedSource(_pay))
    other = Replica(database, identity, PlayedSource(_pay))
    async with running(replica, other):
        made = order()
        first, again, elsewhere = await replica.end(made), await replica.end(made), await other.end(made)
    assert first.outcome == again.outcome == elsewhere.outcome == Returned(f"paid {SECRET}")
    assert (first.replayed, again.replayed, elsewhere.replayed) == (False, True, True)
    assert (len(replica.source.calls), len(other.source.calls)) == (1, 0)
    async with database.read() as connection:
        rows = (await connection.execute(select(gateway_calls))).all()
    assert rows
    assert SECRET not in repr(rows)
    assert SECRET.encode() not in b"".join(row.outcome or b"" for row in rows)


async def test_calls_of_two_groups_with_one_id_never_meet(database: Database, identity: ServiceIdentity) -> None:
    replica = Replica(database, identity, PlayedSource(_pay))
    async with running(replica):
        mine = order(group_id="sales")
        theirs = order(group_id="legal", call_id=mine.request.call_id)
        await replica.call(mine)
        assert not (await replica.end(theirs)).replayed
        assert await replica.calls.answer(key_of(theirs), 1, SourceAnswer("accept")) is False
    assert len(replica.source.calls) == 2


async def test_all_who_ask_meanwhile_follow_one_call(database: Database, identity: ServiceIdentity) -> None:
    gate, started = asyncio.Event(), asyncio.Event()
    source = held(gate, started)
    first, second = Replica(database, identity, source), Replica(database, identity, source)
    async with running(first, second):
        made = order()
        asking = [asyncio.create_task(first.call(made)) for _ in range(3)]
        await started.wait()
        # Whoever goes away takes nothing with them.
        asking[0].cancel()
        asking.append(asyncio.create_task(second.call(made)))
        await asyncio.sleep(0)
        gate.set()
        outcomes = await asyncio.gather(*asking[1:])
    assert outcomes == [Returned("paid")] * 3
    assert source.calls == [made.request.call_id]


async def test_two_replicas_that_are_asked_at_once_send_one_call(database: Database, identity: ServiceIdentity) -> None:
    gate, begun = asyncio.Event(), [asyncio.Event(), asyncio.Event()]
    sent: list[str] = []

    async def call(request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        begun[len(source.calls) - 1].set()
        await gate.wait()
        await progress.sent()
        sent.append(request.call_id)
        return ToolResult("paid")

    source = PlayedSource(call)
    first, second = Replica(database, identity, source), Replica(database, identity, source)
    async with running(first, second):
        made = order()
        asking = [asyncio.create_task(replica.call(made)) for replica in (first, second)]
        await asyncio.gather(*(begun[number].wait() for number in range(2)))
        gate.set()
        assert await asyncio.gather(*asking) == [Returned("paid")] * 2
    assert sent == [made.request.call_id]


async def test_a_process_that_ends_leaves_what_has_a_handle_at_its_source(
    database: Database, identity: ServiceIdentity
) -> None:
    left: list[bool] = []
    followed = asyncio.Event()

    async def call(request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        await progress.handle("run-7")
        followed.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            left.append(progress.goes_on)
            raise
        raise AssertionError

    async def resume(request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
        return ToolResult(f"{handle} has ended")

    ending = Replica(database, identity, PlayedSource(call, resume))
    other = Replica(database, identity, PlayedSource(_pay, resume))
    async with running(ending, other):
        made = order()
        asking = asyncio.create_task(ending.call(made))
        await followed.wait()
        await ending.calls.close()
        await asyncio.gather(asking, return_exceptions=True)
        assert await other.call(made) == Returned("run-7 has ended")
    assert left == [True]


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("sent", [False, True])
async def test_a_lost_process_leaves_what_was_not_sent_to_another(
    database: Database, identity: ServiceIdentity, sent: bool, idempotent: bool
) -> None:
    gate, started = asyncio.Event(), asyncio.Event()
    lost = Replica(database, identity, held(gate, started, sent=sent))
    other = Replica(database, identity, PlayedSource(_pay, _cannot_tell))
    async with running(lost, other):
        made = order(idempotent=idempotent)
        asking = asyncio.create_task(lost.call(made))
        await started.wait()
        await lost.die()
        await asyncio.gather(asking, return_exceptions=True)
        await _expire_leases(database)
        outcome = await other.call(made)
    if sent and not idempotent:
        assert isinstance(outcome, Unknown)
        assert not other.source.calls
    else:
        assert outcome == Returned(f"paid {SECRET}")
        assert len(other.source.calls) == 1


async def test_a_live_process_is_waited_for(
    database: Database, identity: ServiceIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = timedelta()
    for module in ("call_store", "tool_calls"):
        monkeypatch.setattr(f"{USECASES}.{module}.utc_now", lambda: utc_now() + ahead)
    gate, started = asyncio.Event(), asyncio.Event()
    first = Replica(database, identity, held(gate, started), lease=60)
    # It renews its leases three times in this time.
    first.calls._lease_seconds = 0.3
    other = Replica(database, identity, PlayedSource(_pay))
    looks, find = 0, other.store.find

    async def counted(key: CallKey) -> GatewayCall | None:
        nonlocal looks
        row = await find(key)
        looks += 1
        return row

    monkeypatch.setattr(other.store, "find", counted)
    async with running(first, other):
        made = order()
        asking = asyncio.create_task(first.call(made))
        await started.wait()
        following = asyncio.create_task(other.call(made))
        # After the second step the first lease would be over.
        for _ in range(2):
            before = await first.store.find(key_of(made))
            assert before is not None
            ahead += timedelta(seconds=40)

            async def renewed(later: datetime = before.leased_until + timedelta(seconds=30)) -> bool:
                row = await first.store.find(key_of(made))
                return row is not None and row.leased_until > later

            await until(renewed, "the lease is renewed")
        seen = looks
        await until(lambda: looks >= seen + 2, "the other one has looked since")
        assert not following.done()
        gate.set()
        assert [await asking, await following] == [Returned("paid")] * 2
    assert not other.source.calls


async def test_what_has_a_handle_is_asked_for_by_whoever_is_left(database: Database, identity: ServiceIdentity) -> None:
    started = asyncio.Event()
    asked = 0

    async def call(request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        await progress.handle("statement-7")
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def resume(request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise OutcomeUnknown("the source does not answer")
        return ToolResult(f"result of {handle}")

    lost = Replica(database, identity, PlayedSource(call))
    other = Replica(database, identity, PlayedSource(_pay, resume))
    async with running(lost, other):
        made = order()
        asking = asyncio.create_task(lost.call(made))
        await started.wait()
        await lost.die()
        await asyncio.gather(asking, return_exceptions=True)
        await _expire_leases(database)
        assert await other.call(made) == Returned("result of statement-7")
    assert other.source.resumed == ["statement-7"] * 3
    assert not other.source.calls


async def test_what_a_source_has_never_seen_is_called(database: Database, identity: ServiceIdentity) -> None:
    async def call(request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        await progress.sent()
        if len(source.calls) == 1:
            raise OutcomeUnknown("the connection ended")
        return ToolResult("paid")

    async def resume(request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
        raise NeverSeen("it has never seen the call")

    source = PlayedSource(call, resume)
    replica = Replica(database, identity, source)
    async with running(replica):
        assert await replica.call(order()) == Returned("paid")
    assert (len(source.calls), source.resumed) == (2, [""])


@pytest.mark.parametrize("handle", ["", "statement-7"])
@pytest.mark.parametrize(
    "failure",
    [
        NotSent("auth does not answer"),
        NotSent("too many", reason="TOOL_RATE_LIMITED", retry_after=0.01),
        CallRefused("the credential has expired", reason="CREDENTIAL_EXPIRED"),
        CallRefused("there is no such tool", reason="TOOL_NOT_FOUND"),
        ValueError("a fault of the adapter"),
    ],
)
async def test_a_source_that_cannot_be_asked_says_nothing_of_the_call(
    database: Database, identity: ServiceIdentity, failure: Exception, handle: str
) -> None:
    """A call that may have taken effect is never made again because nobody could find out."""

    async def call(request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        await progress.sent()
        if handle:
            await progress.handle(handle)
        raise OutcomeUnknown("the connection ended")

    async def resume(request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
        raise failure

    for seconds in longer(1.5):
        source = PlayedSource(call, resume)
        replica = Replica(database, identity, source)
        async with running(replica):
            outcome = await replica.call(order(max_timeout=seconds))
        if source.resumed:
            assert isinstance(outcome, Unknown), outcome
            assert len(source.calls) == 1
            assert set(source.resumed) == {handle}
            break


async def test_a_source_that_was_switched_off_says_nothing_of_a_lost_call(
    database: Database, identity: ServiceIdentity
) -> None:
    gate, started = asyncio.Event(), asyncio.Event()
    lost = Replica(database, identity, held(gate, started))
    other = Replica(database, identity, PlayedSource(_pay, _cannot_tell))
    async with running(lost, other):
        made = order()
        asking = asyncio.create_task(lost.call(made))
        await started.wait()
        await lost.die()
        await asyncio.gather(asking, return_exceptions=True)
        await _expire_leases(database)
        assert made.request.source is not None
        for number, source in enumerate(
            (replace(made.request.source, disabled=True), replace(made.request.source, denied_tools=("*",)))
        ):
            off = replace(made, request=replace(made.request, source=source))
            assert isinstance(await other.call(off), Unknown)
            refused = await other.call(replace(off, request=replace(off.request, call_id=f"another {number}")))
            assert isinstance(refused, Failed)
            assert refused.reason == "TOOL_DISABLED"


async def test_a_lost_call_of_a_newer_release_is_found_out_whatever_its_arguments(
    database: Database, identity: ServiceIdentity
) -> None:
    async def found(request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
        return ToolResult("paid")

    gate, started = asyncio.Event(), asyncio.Event()
    lost = Replica(database, identity, held(gate, started))
    other = Replica(database, identity, PlayedSource(_pay, found))
    async with running(lost, other):
        made = order()
        arguments = {"url": "https://bank.example.com/"}
        made = replace(made, name="http_request", request=replace(made.request, source=None, arguments=arguments))
        asking = asyncio.create_task(lost.call(made))
        await started.wait()
        await lost.die()
        await asyncio.gather(asking, return_exceptions=True)
        await _expire_leases(database)
        newer = replace(made, request=replace(made.request, arguments=arguments | {"unheard_of": 1}))
        assert not isinstance(await other.call(newer), Unknown | Failed)
        refused = await other.call(replace(newer, request=replace(newer.request, call_id="another")))
        assert isinstance(refused, Failed)
        assert refused.reason == "TOOL_ARGUMENTS"


async def test_an_unknown_outcome_is_found_out_later(database: Database, identity: ServiceIdentity) -> None:
    answers: Iterator[OutcomeUnknown | ToolResult] = iter([OutcomeUnknown("not yet"), ToolResult("paid")])

    async def call(request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        await progress.sent()
        raise OutcomeUnknown("the connection ended before an answer came")

    async def resume(request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
        answer = next(answers)
        if isinstance(answer, OutcomeUnknown):
            raise answer
        return answer

    replica = Replica(database, identity, PlayedSource(call, resume))
    async with running(replica):
        made = order()
        assert await replica.call(made) == Unknown("bank/pay: the connection ended before an answer came")
        assert await replica.call(made) == Returned("paid")
    assert len(replica.source.calls) == 1


@pytest.mark.parametrize(
    ("failure", "idempotent", "attempts"),
    [
        (NotSent("refused the connection", retry_after=0.01), False, 3),
        (OutcomeUnknown("cut"), True, 3),
        (OutcomeUnknown("cut"), False, 1),
        (CallRefused("no such account", reason="TOOL_UNAVAILABLE"), True, 1),
        (NotSent("too many", reason="TOOL_RATE_LIMITED", retry_after=0.01), False, 3),
        (NotSent("an hour", reason="TOOL_RATE_LIMITED", retry_after=3600), False, 1),
        (NotSent("no such tool", reason="TOOL_NOT_FOUND"), True, 1),
        (ValueError("a fault of the adapter"), True, 1),
    ],
)
async def test_only_what_does_no_harm_is_tried_again(
    database: Database, identity: ServiceIdentity, failure: Exception, idempotent: bool, attempts: int
) -> None:
    async def call(request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        if not isinstance(failure, NotSent):
            await progress.sent()
        raise failure

    replica = Replica(database, identity, PlayedSource(call, _cannot_tell))
    async with running(replica):
        outcome = await replica.call(order(idempotent=idempotent))
    assert len(replica.source.calls) == attempts
    if isinstance(failure, OutcomeUnknown) and not idempotent:
        assert isinstance(outcome, Unknown)
    else:
        assert isinstance(outcome, Failed)
        assert "a fault" not in outcome.message
        assert outcome.made is (not isinstance(failure, NotSent | CallRefused))


async def test_a_fault_after_something_was_sent_is_no_failure(database: Database, identity: ServiceIdentity) -> None:
    async def call(request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        await progress.sent()
        raise ValueError("a fault of the adapter")

    replica = Replica(database, identity, PlayedSource(call, _cannot_tell))
    async with running(replica):
        assert isinstance(await replica.call(order()), Unknown)


async def test_a_call_that_may_be_made_twice_and_ran_out_of_time_says_that_it_was_made(
    database: Database, identity: ServiceIdentity
) -> None:
    for seconds in longer(0.25):
        started = asyncio.Event()
        replica = Replica(database, identity, held(asyncio.Event(), started, sent=True))
        async with running(replica):
            outcome = await replica.call(order(timeout=seconds, idempotent=True))
        if started.is_set():
            assert isinstance(outcome, Failed)
            assert (outcome.reason, outcome.made) == ("TOOL_TIMEOUT", True)
            break


@pytest.mark.parametrize("sent", [False, True])
async def test_a_call_without_a_sign_ends(database: Database, identity: ServiceIdentity, sent: bool) -> None:
    for seconds in longer(0.25):
        started = asyncio.Event()
        replica = Replica(database, identity, held(asyncio.Event(), started, sent=sent))
        async with running(replica):
            outcome = await replica.call(order(timeout=seconds))
        text = f"it gave no sign for {seconds:g} s"
        if started.is_set() and sent:
            assert isinstance(outcome, Unknown)
            assert text in outcome.message
            break
        if started.is_set():
            assert outcome == Failed("TOOL_TIMEOUT", f"bank/pay: {text}", temporary=True)
            break


async def test_signs_extend_a_call_up_to_its_end(database: Database, identity: ServiceIdentity) -> None:
    async def call(request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        while True:
            await progress.progress("still at it", 0.5)
            await asyncio.sleep(0.02)

    for seconds in longer(0.8):
        most = seconds * 1.25
        replica = Replica(database, identity, PlayedSource(call))
        async with running(replica):
            events = [event async for event in replica.calls.execute(order(timeout=seconds, max_timeout=most))]
        signs = [event for event in events if isinstance(event, Sign)]
        # Many more signs came, and followers see four a second.
        assert len(signs) <= 4 * most + 2
        if len(signs) >= 2 and f"within {most:g} s" in events[-1].outcome.message:  # type: ignore[union-attr]
            break


async def test_a_person_is_asked_while_the_clock_stands_still(database: Database, identity: ServiceIdentity) -> None:
    async def call(request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        await progress.sent()
        answer = await progress.ask(SourceQuestion("Which account?\0", {"type": "object"}))
        return ToolResult(f"{answer.action} {answer.content.get('account')}")

    first = Replica(database, identity, PlayedSource(call))
    other = Replica(database, identity, PlayedSource(call))
    async with running(first, other):
        made = order()
        key = key_of(made)
        stream = first.calls.execute(made)
        asked = await anext(stream)
        assert asked == Asked(1, SourceQuestion("Which account?\ufffd", {"type": "object"}))
        run = first.calls._runs[key].call
        assert run is not None
        assert run.time._limit is not None
        assert run.time._limit.when() is None
        # The worker host may ask another process than the one that makes the call.
        elsewhere = other.calls.execute(made)
        assert await anext(elsewhere) == asked
        assert not await other.calls.answer(key, 2, SourceAnswer("accept"))
        assert await other.calls.answer(key, 1, SourceAnswer("accept", {"account": "7"}))
        assert not await other.calls.answer(key, 1, SourceAnswer("decline"))
        ended = [event async for event in stream][-1]
        assert ended == [event async for event in elsewhere][-1] or ended.outcome == Returned("accept 7")  # type: ignore[union-attr]
        assert ended.outcome == Returned("accept 7")  # type: ignore[union-attr]


async def test_a_call_is_cancelled_wherever_it_is_made(database: Database, identity: ServiceIdentity) -> None:
    started = asyncio.Event()
    first = Replica(database, identity, held(asyncio.Event(), started))
    other = Replica(database, identity, PlayedSource(_pay))
    async with running(first, other):
        made = order()
        asking = asyncio.create_task(first.call(made))
        await started.wait()
        outcome = await other.calls.cancel(key_of(made), "")
        assert isinstance(outcome, Unknown)
        assert await asking == outcome
        # One that has not begun never will.
        never = order()
        assert await first.calls.cancel(key_of(never), "") == await other.call(never)
        assert not other.source.calls
        done = order()
        await other.call(done)
        assert await first.calls.cancel(key_of(done), "") == Returned(f"paid {SECRET}")


async def test_a_call_that_waits_is_cancelled_before_it_is_sent(database: Database, identity: ServiceIdentity) -> None:
    gate, started = asyncio.Event(), asyncio.Event()
    replica = Replica(database, identity, held(gate, started), at_once=1)
    async with running(replica):
        running_call = asyncio.create_task(replica.call(order()))
        await started.wait()
        waiting = order()
        asking = asyncio.create_task(replica.call(waiting))
        await until(replica.has_waiting, "the second call waits for its turn")
        outcome = await replica.calls.cancel(key_of(waiting), "")
        assert isinstance(outcome, Failed)
        assert outcome.reason == "TOOL_CANCELLED"
        assert await asking == outcome
        gate.set()
        await running_call
    assert len(replica.source.calls) == 1


async def test_a_process_that_ends_in_order_lets_others_ask_at_once(
    database: Database, identity: ServiceIdentity
) -> None:
    started = asyncio.Event()
    first = Replica(database, identity, held(asyncio.Event(), started), lease=3600)
    other = Replica(database, identity, PlayedSource(_pay, _cannot_tell), lease=3600)
    async with running(first, other):
        made = order()
        asking = asyncio.create_task(first.call(made))
        await started.wait()
        await first.calls.close()
        assert isinstance((await asyncio.gather(asking, return_exceptions=True))[0], Exception)
        assert isinstance(await other.call(made), Unknown)


async def test_old_outcomes_are_dropped_and_never_made_again(database: Database, identity: ServiceIdentity) -> None:
    replica = Replica(database, identity, PlayedSource(_pay, _cannot_tell))
    day = 24 * 3600

    async def older(days: int) -> None:
        async with database.write() as connection:
            await connection.execute(update(gateway_calls).values(ended_at=utc_now() - timedelta(days=days)))

    async with running(replica):
        of_execution, of_test = order(execution_id=await queue(database)), order()
        for made in (of_execution, of_test):
            await replica.call(made)
        await older(2)
        await replica.store.drop_outcomes(day, 7 * day)
        for made in (of_execution, of_test):
            kept = await row_of(database, key_of(made))
            assert kept is not None
            assert kept.outcome is None
            assert isinstance(await replica.call(made), Unknown)
        await older(8)
        await replica.store.drop_outcomes(day, 7 * day)
        assert await row_of(database, key_of(of_execution)) is not None
        assert await row_of(database, key_of(of_test)) is None
    assert len(replica.source.calls) == 2


@pytest.mark.parametrize("ended", [True, False])
async def test_a_call_that_was_stored_when_its_execution_was_gone_is_not_kept_for_ever(
    database: Database, identity: ServiceIdentity, ended: bool
) -> None:
    replica = Replica(database, identity, PlayedSource(_pay))
    heir = await queue(database)
    async with running(replica):
        known, forgotten = order(execution_id="gone"), order(execution_id="gone")
        call = ToolCall(ToolCallState.INTENT, "", "", "bank/pay", known.request.call_id, arguments="{}")
        async with database.write() as connection:
            await JournalRepository(connection, heir).put_tool_call(0, "k", call, 1)
        for made in (known, forgotten):
            await replica.call(made)
        long_ago = utc_now() - timedelta(days=2)
        async with database.write() as connection:
            old = {"ended_at": long_ago} if ended else {"ended_at": None, "outcome": None, "leased_until": long_ago}
            await connection.execute(update(gateway_calls).values(**old))
        await replica.store.drop_outcomes(24 * 3600, 7 * 24 * 3600)
        row = await row_of(database, key_of(known))
        assert row is not None
        assert row.execution_id == heir
        assert await row_of(database, key_of(forgotten)) is None


async def _expire_leases(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(update(gateway_calls).values(leased_until=utc_now() - timedelta(seconds=1)))


async def test_a_call_whose_credential_expires_meanwhile_is_asked_for_with_the_renewed_one(
    database: Database, identity: ServiceIdentity
) -> None:
    renewed = False

    async def begin(request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        await progress.sent()
        await progress.handle("task-1")
        raise CredentialExpired("sign in again")

    async def find(request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
        if not renewed:
            raise CredentialExpired("sign in again")
        return ToolResult("paid")

    first, other = (Replica(database, identity, PlayedSource(begin, find), lease=3600) for _ in range(2))
    async with running(first, other):
        made = order()
        for replica in (first, first, other):
            with pytest.raises(Unauthenticated) as expired:
                await replica.call(made)
            assert expired.value.reason == "CREDENTIAL_EXPIRED"
            row = await row_of(database, key_of(made))
            assert row is not None
            assert row.ended_at is None
        renewed = True
        assert await first.call(made) == await other.call(made) == Returned("paid")
    assert (len(first.source.calls), first.source.resumed) == (1, ["task-1", "task-1"])
    assert (other.source.calls, other.source.resumed) == ([], ["task-1"])


class HeldClaim:
    """Lets a replica store that a call is about to be sent, and keeps it from hearing of it until `go_on`."""

    def __init__(self, replica: Replica[PlayedSource], fails: bool = False) -> None:
        self.real = replica.store.claim
        self._fails = fails
        self.stored, self.go_on = asyncio.Event(), asyncio.Event()
        replica.store.claim = self  # type: ignore[method-assign,assignment]

    async def __call__(self, *given: object) -> bool:
        claimed = await self.real(*given)  # type: ignore[arg-type]
        self.stored.set()
        await self.go_on.wait()
        if self._fails:
            raise Unavailable("the connection was lost", reason="DEPENDENCY_UNAVAILABLE")
        return claimed


async def test_a_call_that_is_cancelled_while_its_row_is_stored_is_not_made(
    database: Database, identity: ServiceIdentity
) -> None:
    replica = Replica(database, identity, PlayedSource(_pay))
    async with running(replica):
        claim = HeldClaim(replica)
        made = order(execution_id="run")
        asking = asyncio.create_task(replica.call(made))
        await claim.stored.wait()
        cancelling = asyncio.create_task(replica.calls.cancel(key_of(made), "run"))
        await until(replica.calls._runs[key_of(made)].cancelled.is_set, "the cancellation arrives")
        claim.go_on.set()
        outcomes = await asyncio.gather(asking, cancelling)
        assert {getattr(outcome, "reason", "") for outcome in outcomes} == {"TOOL_CANCELLED"}
        assert await replica.call(made) == outcomes[0]
        row = await row_of(database, key_of(made))
        assert row is not None
        assert row.ended_at is not None


@pytest.mark.parametrize("fails", [False, True])
async def test_a_call_whose_time_is_over_while_its_row_is_stored_may_be_made_again(
    database: Database, identity: ServiceIdentity, fails: bool
) -> None:
    replica = Replica(database, identity, PlayedSource(_pay))
    async with running(replica):
        claim = HeldClaim(replica, fails=fails)
        made = order()
        asking = asyncio.create_task(replica.call(made))
        await claim.stored.wait()
        run = replica.calls._runs[key_of(made)]
        assert run.call is not None
        assert run.call.time._limit is not None
        run.call.time._limit.reschedule(0)
        await until(lambda: run.call is None, "its time is over")
        claim.go_on.set()
        outcome = await asking
        assert isinstance(outcome, Failed)
        assert (outcome.reason, outcome.temporary) == ("TOOL_TIMEOUT", True)
        assert await row_of(database, key_of(made)) is None
        replica.store.claim = claim.real  # type: ignore[method-assign]
        assert await replica.call(made) == Returned(f"paid {SECRET}")


async def test_an_outcome_that_could_not_be_stored_at_first_is_told_later(
    database: Database, identity: ServiceIdentity
) -> None:
    replica, other = Replica(database, identity, PlayedSource(_pay)), Replica(database, identity, PlayedSource(_pay))
    end = replica.store.end

    async def away(*_: object) -> bool:
        raise Unavailable("the database is away", reason="DEPENDENCY_UNAVAILABLE")

    async with running(replica, other):
        replica.store.end = away  # type: ignore[method-assign,assignment]
        made = order()
        assert await replica.call(made) == Returned(f"paid {SECRET}")
        with pytest.raises(Unavailable):
            await replica.call(made)
        replica.store.end = end  # type: ignore[method-assign]
        # The housekeeping of the first one stores it, without anybody asking it again.
        assert await other.call(made) == await replica.call(made) == Returned(f"paid {SECRET}")
        assert (len(replica.source.calls), len(other.source.calls)) == (1, 0)


async def test_a_call_that_is_taken_back_twice_does_not_take_back_the_next_attempt(
    database: Database, identity: ServiceIdentity
) -> None:
    """The housekeeping and whoever asks again both want to remove a row of which the database could not be told."""
    gate, sending = asyncio.Event(), asyncio.Event()
    replica = Replica(database, identity, held(gate, sending))
    made = order()
    key = key_of(made)
    store, forgetting, forgotten = replica.store, asyncio.Event(), asyncio.Event()
    forget, removed = store.forget, 0

    async def slow(key: CallKey) -> None:
        nonlocal removed
        removed += 1
        if removed == 1:
            forgetting.set()
            await forgotten.wait()
        await forget(key)

    store.forget = slow  # type: ignore[method-assign]
    assert await store.claim(key, made.request.execution_id, made.source_name)
    replica.calls._unstored[key] = None
    housekeeping = asyncio.create_task(replica.calls._renew())
    await forgetting.wait()
    asking = asyncio.create_task(replica.call(made))
    # Whoever asks comes as far as they can before the first removal goes on.
    for _ in range(100):
        await asyncio.sleep(0.001)
    assert not sending.is_set()
    forgotten.set()
    await housekeeping
    async with asyncio.timeout(WAIT_SECONDS):
        await sending.wait()
    assert await row_of(database, key) is not None
    assert (removed, replica.calls._unstored) == (1, {})
    gate.set()
    assert await asking == Returned("paid")
    await replica.calls.close()
    assert replica.source.calls == [made.request.call_id]


async def test_what_is_stored_by_somebody_else_meanwhile_is_not_stored_again(
    database: Database, identity: ServiceIdentity
) -> None:
    replica = Replica(database, identity, PlayedSource(_pay))
    first, second = key_of(order()), key_of(order())
    replica.calls._unstored.update({first: None, second: None})
    forget = replica.store.forget

    async def as_others_store(key: CallKey) -> None:
        await forget(key)
        replica.calls._unstored.pop(second, None)

    replica.store.forget = as_others_store  # type: ignore[method-assign]
    await replica.calls._renew()
    assert replica.calls._unstored == {}


async def test_a_call_whose_process_ends_while_its_row_is_stored_leaves_none(
    database: Database, identity: ServiceIdentity
) -> None:
    replica, other = Replica(database, identity, PlayedSource(_pay)), Replica(database, identity, PlayedSource(_pay))
    async with running(other):
        replica.calls.start()
        claim = HeldClaim(replica)
        made = order()
        asking = asyncio.create_task(replica.call(made))
        await claim.stored.wait()
        closing = asyncio.create_task(replica.calls.close())
        claim.go_on.set()
        await closing
        with pytest.raises(Unavailable):
            await asking
        assert await other.call(made) == Returned(f"paid {SECRET}")


async def row_of(database: Database, key: CallKey) -> GatewayCall | None:
    async with database.read() as connection:
        return await GatewayCallRepository(connection).find(key)


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_question_that_a_source_keeps_is_let_go_and_asked_again(
    database: Database, identity: ServiceIdentity, elsewhere: bool
) -> None:
    async def call(request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        await progress.handle("task-1")
        await progress.ask(SourceQuestion("Which year?", {"type": "object"}), durable=True)
        raise AssertionError("nobody has answered")

    async def resume(request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
        return ToolResult(f"found {handle}")

    source = PlayedSource(call, resume)
    first, other = Replica(database, identity, source), Replica(database, identity, PlayedSource(_pay, resume))
    first.calls._question_seconds = 0.05
    made = order(execution_id="first run")
    async with running(first, other):
        with pytest.raises(Unavailable, match="waits for a person's answer"):
            await first.call(made)
        # As it does every few seconds as long as it has other calls.
        await first.store.renew()
        async with database.write() as connection:
            await GatewayCallRepository(connection).request_cancels("first run")
        assert await first.store.wanted() == []
        continued = replace(made, request=replace(made.request, execution_id="second run"))
        assert await (other if elsewhere else first).call(continued) == Returned("found task-1")
        row = await row_of(database, key_of(made))
        assert row is not None
        assert (row.execution_id, row.cancel_requested) == ("second run", False)
    assert (len(source.calls), source.resumed + other.source.resumed) == (1, ["task-1"])


async def test_a_question_of_a_process_that_dies_is_told_again_to_who_knew_it_and_the_answer_reaches_the_source(
    database: Database, identity: ServiceIdentity
) -> None:
    async def ask(progress: CallProgress) -> ToolResult:
        answer = await progress.ask(SourceQuestion("Which year?", {"type": "object"}, key="year"), durable=True)
        return ToolResult(f"of {answer.content['year']}")

    async def call(request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        await progress.handle("task-1")
        return await ask(progress)

    async def resume(request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
        return await ask(progress)

    first = Replica(database, identity, PlayedSource(call, resume), lease=3600)
    other = Replica(database, identity, PlayedSource(_pay, resume), lease=3600)
    made, answer = order(), SourceAnswer("accept", {"year": "2026"})
    async with running(first, other), asyncio.timeout(WAIT_SECONDS):
        assert isinstance(await anext(first.calls.execute(made)), Asked)
        following = other.calls.execute(made)
        asked = await anext(following)
        assert isinstance(asked, Asked)
        await first.die()
        # It is stored, and nobody takes it any more.
        assert await other.calls.answer(key_of(made), asked.number, answer)
        await _expire_leases(database)
        again = await anext(following)
        assert isinstance(again, Asked)
        assert (again.question, again.number > asked.number) == (asked.question, True)
        assert not await other.calls.answer(key_of(made), asked.number, SourceAnswer("accept", {"year": "1999"}))
        assert await other.calls.answer(key_of(made), again.number, answer)
        assert await anext(following) == Ended(Returned("of 2026"), replayed=True)


class _Outage:
    """Makes a method of a store fail while the database is away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: object, method: str) -> None:
        self.lasts = False
        self.failed = 0
        self._stored = getattr(store, method)
        monkeypatch.setattr(store, method, self._store)

    async def _store(self, *values: object) -> object:
        if self.lasts:
            self.failed += 1
            raise Unavailable("the database does not answer")
        return await self._stored(*values)


async def test_a_database_that_is_away_for_a_moment_ends_no_call_that_its_source_has_taken(
    database: Database, identity: ServiceIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def call(request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        await progress.sent()
        outage.lasts = True
        await progress.handle("task-1")
        outage.lasts = False
        return ToolResult("paid")

    replica = Replica(database, identity, PlayedSource(call))
    outage = _Outage(monkeypatch, replica.store, "keep_handle")
    async with running(replica):
        assert await replica.call(order()) == Returned("paid")
    assert outage.failed == 1


async def test_a_question_that_cannot_be_stored_is_asked_when_the_database_is_back(
    database: Database, identity: ServiceIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def call(request: ToolCallRequest, progress: CallProgress) -> ToolResult:
        await progress.handle("task-1")
        outage.lasts = True
        answer = await progress.ask(SourceQuestion("Shall it?"))
        return ToolResult(answer.action)

    async def resume(request: ToolCallRequest, handle: str, progress: CallProgress) -> ToolResult:
        outage.lasts = False
        answer = await progress.ask(SourceQuestion("Shall it?"))
        return ToolResult(f"{handle} {answer.action}")

    replica, made = Replica(database, identity, PlayedSource(call, resume)), order()
    outage = _Outage(monkeypatch, replica.store, "ask")
    async with running(replica):
        async for event in replica.calls.execute(made):
            if isinstance(event, Asked):
                # The answer counts, also where it cannot be stored that nobody is asked any more.
                outage.lasts = True
                assert await replica.calls.answer(key_of(made), event.number, SourceAnswer("accept"))
            if isinstance(event, Ended):
                assert event.outcome == Returned("task-1 accept")
    assert (len(replica.source.calls), outage.failed) == (1, 2)
