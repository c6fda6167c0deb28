"""Private records are there for their owner alone, and for editors who ask for them: in every method and store."""

import itertools
from typing import Any

import grpc

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import record_pb2
from services.memory.domain.copies import chosen_ids, identity_of
from services.memory.domain.records import Record, Unified
from tests.integration.auth.support import refused
from tests.integration.memory.support import place, stub, unified
from tests.support.harness import Harness

CODE = grpc.StatusCode
BOB, OLAF = "dev:bob:sales=operator", "dev:olaf:sales=operator"
EDITOR = "dev:ed:sales=editor"
FILTERS = [{}, {"source": "bob"}, {"source": "bob", "scope_prefix": "/"}]


async def _save(memories: Any, *records: record_pb2.Record) -> list[str]:
    return list((await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=records))).ids)


async def _seen(memories: Any, **chosen: Any) -> set[str]:
    """Return the ids that lists and searches find, which have to be the same, and as many as are counted."""
    selected = pb.RecordFilter(**chosen)
    listed = (await memories.ListRecords(pb.ListRecordsRequest(namespace=place(), filter=selected))).records
    request = pb.SearchRecordsRequest(namespace=place(), text="secret", filter=selected, limit=100)
    found = (await memories.SearchRecords(request)).results
    ids = {record.id for record in listed}
    assert {result.record.id for result in found} == ids
    assert (await memories.CountRecords(pb.CountRecordsRequest(namespace=place(), filter=selected))).count == len(ids)
    return ids


async def test_a_private_record_is_not_there_for_others(everywhere: Harness) -> None:
    bob, olaf, editor = (stub(everywhere.channel(bearer)) for bearer in (BOB, OLAF, EDITOR))
    await _save(bob, unified("secret", "s", private=True, source="bob", scope="/hidden", categories=["hidden"]))
    await _save(bob, unified("known", "k"))
    assert await _seen(bob, source="bob") == {"s", "k"}
    assert await _seen(bob) == await _seen(bob, source="robert") == {"k"}
    for chosen in FILTERS:
        assert await _seen(olaf, **chosen) == await _seen(editor, **chosen) == {"k"}
    assert await _seen(editor, include_private=True) == {"s", "k"}
    with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await _seen(olaf, include_private=True)

    def get(**fields: Any) -> pb.GetRecordRequest:
        return pb.GetRecordRequest(namespace=place(), id="s", **fields)

    assert (await bob.GetRecord(get())).record.unified.owner == "subject:dev|bob"
    assert (await editor.GetRecord(get(include_private=True))).record.unified.content == "secret"
    for memories, request in ((olaf, get()), (olaf, get(source="bob")), (editor, get()), (bob, get(source="other"))):
        with refused(CODE.NOT_FOUND, "NOT_FOUND"):
            await memories.GetRecord(request)
    with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await olaf.GetRecord(get(include_private=True))

    touch = pb.TouchRecordsRequest(namespace=place(), ids=["s", "k"])
    assert [(await memories.TouchRecords(touch)).touched for memories in (olaf, bob)] == [1, 2]
    for memories in (olaf, bob, editor):
        scopes = await memories.ListScopes(pb.ListScopesRequest(namespace=place()))
        categories = await memories.ListCategories(pb.ListCategoriesRequest(namespace=place()))
        assert (list(scopes.scopes), dict(categories.counts)) == ([], {})


async def test_a_private_record_is_neither_replaced_nor_removed_by_others(everywhere: Harness) -> None:
    bob, olaf, editor = (stub(everywhere.channel(bearer)) for bearer in (BOB, OLAF, EDITOR))
    secret = unified("secret", "s", private=True, source="bob")
    await _save(bob, secret)
    for memories in (olaf, editor):
        for record in (unified("hijacked", "s"), unified("hijacked", "s", private=True, source="bob")):
            with refused(CODE.PERMISSION_DENIED, "OWNER_REQUIRED"):
                await _save(memories, unified("beside", "b"), record)
    # The same text is another memory: a private one of somebody else.
    [own] = await _save(olaf, unified("secret", private=True, source="bob"))
    assert own != "s"
    assert await _save(olaf, unified("secret", private=True, source="bob")) == [own]

    def delete(*ids: str, **chosen: Any) -> pb.DeleteRecordsRequest:
        selected = pb.RecordFilter(**chosen) if chosen else None
        return pb.DeleteRecordsRequest(namespace=place(), ids=ids, filter=selected)

    for request in (delete("s"), delete("s", source="bob"), delete("s", scope_prefix="/")):
        assert (await olaf.DeleteRecords(request)).deleted == 0
    assert await _seen(bob, source="bob") == {"s"}
    assert (await olaf.DeleteRecords(delete(own))).deleted == 1
    # Editors restore what was exported with its owner, and remove what nobody else can.
    secret.unified.owner = "subject:dev|bob"
    secret.unified.content = "secret, restored"
    await _save(editor, secret)
    with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
        await _save(olaf, secret)
    assert await _seen(bob, source="bob") == {"s"}
    assert (await editor.DeleteRecords(delete("s"))).deleted == 0
    assert (await editor.DeleteRecords(delete("s", include_private=True))).deleted == 1
    # What is its own may be made public by its owner.
    await _save(bob, unified("mine", "m", private=True))
    await _save(bob, unified("ours", "m"))
    assert await _seen(olaf) == {"m"}


async def test_everything_is_removed_by_editors_alone_whatever_selects_it(everywhere: Harness) -> None:
    olaf, editor = (stub(everywhere.channel(bearer)) for bearer in (OLAF, EDITOR))
    await _save(olaf, unified("one", "1", importance=0.5, scope="/a"), unified("two", "2", importance=0.25))

    def by(**chosen: Any) -> pb.DeleteRecordsRequest:
        return pb.DeleteRecordsRequest(namespace=place(), filter=pb.RecordFilter(**chosen))

    condition = record_pb2.Condition(
        column="importance",
        operator=record_pb2.COMPARISON_OPERATOR_GREATER_OR_EQUAL,
        values=[record_pb2.ConditionValue(number=0.0)],
    )
    future = pb.RecordFilter()
    future.created_before.FromJsonString("9999-01-01T00:00:00Z")
    everything = [
        by(scope_prefix="/"),
        by(scope_prefix="//"),
        by(conditions=[condition]),
        pb.DeleteRecordsRequest(namespace=place(), filter=future),
    ]
    for request in everything:
        with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
            await olaf.DeleteRecords(request)
    with refused(CODE.INVALID_ARGUMENT, "INVALID_FIELD"):
        await editor.DeleteRecords(by())
    condition.values[0].number = 0.3
    assert (await olaf.DeleteRecords(by(conditions=[condition]))).deleted == 1
    assert (await editor.DeleteRecords(everything[0])).deleted == 1
    assert await _seen(editor) == set()


async def test_the_id_of_a_private_record_cannot_be_guessed_from_its_text(everywhere: Harness) -> None:
    bob, olaf = stub(everywhere.channel(BOB)), stub(everywhere.channel(OLAF))
    [own] = await _save(bob, unified("secret", private=True))
    assert await _save(bob, unified("secret", private=True)) == [own]
    record = Record("", Unified("secret", private=True), owner="subject:dev|bob")
    guesses = [*itertools.islice(chosen_ids(record, identity_of(record), b""), 3), identity_of(record)[:32]]
    assert own not in guesses
    # Whoever guesses has saved a record of their own.
    assert await _save(olaf, *(unified("guess", guess) for guess in guesses)) == guesses
    [info] = (await bob.ListNamespaces(pb.ListNamespacesRequest())).namespaces
    if info.version == 0:
        # A Databricks index compares no revisions.
        return
    answers = []
    for record_id in (own, "missing"):
        probe = unified("guess", record_id)
        probe.expected_revision = 1
        with refused(CODE.ABORTED, "REVISION_MISMATCH") as refusal:
            await _save(olaf, probe)
        answers.append((refusal.message.replace(record_id, "ID"), refusal.metadata["actual"]))
    assert answers[0] == answers[1]
