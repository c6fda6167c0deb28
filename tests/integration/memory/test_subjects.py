"""Forgetting a person, over all crews and kinds of a group, in every store."""

from typing import Any

import grpc

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import record_pb2
from services.common.grpc.json_values import to_struct
from tests.integration.auth.support import refused
from tests.integration.memory.support import place, stub, unified
from tests.support.harness import Harness

CODE = grpc.StatusCode
ADMIN, ANN, BEN = "dev:root:sales=admin", "dev:ann:sales=operator", "dev:ben:sales=operator"
ANN_ABROAD = "dev:ann:legal=admin"
ENTITIES = record_pb2.MEMORY_KIND_ENTITY


async def _save(memories: Any, namespace: pb.Namespace, *records: record_pb2.Record) -> None:
    await memories.SaveRecords(pb.SaveRecordsRequest(namespace=namespace, records=records, crew_name="brief"))


async def _left(memories: Any, namespace: pb.Namespace) -> set[str]:
    chosen = pb.RecordFilter(include_private=namespace.kind != ENTITIES)
    listed = await memories.ListRecords(pb.ListRecordsRequest(namespace=namespace, filter=chosen))
    return {record.unified.content or record.entity.entity_name for record in listed.records}


async def test_what_a_person_alone_has_saved_goes_and_the_rest_forgets_them(everywhere: Harness) -> None:
    admin, ann, ben, abroad = (stub(everywhere.channel(bearer)) for bearer in (ADMIN, ANN, BEN, ANN_ABROAD))
    crew, other, entities = place("crew"), place("other"), place("crew", ENTITIES)
    for memories in (ann, ben):
        await _save(memories, crew, unified("shared"))
    await _save(ann, crew, unified("of ann"), unified("secret", private=True, source="x"))
    await _save(ben, crew, unified("of ben"), unified("about ann", metadata=to_struct({"subject": "dev|ann"})))
    await _save(ann, other, unified("elsewhere"))
    await _save(ann, entities, record_pb2.Record(entity=record_pb2.EntityRecord(entity_name="Ann's ship")))
    await _save(abroad, crew, unified("of ann abroad"))

    async def forget(**fields: Any) -> pb.ForgetSubjectResponse:
        request = pb.ForgetSubjectRequest(subject="dev|ann", **fields)
        response: pb.ForgetSubjectResponse = await admin.ForgetSubject(request)
        assert response.removed == sum(found.removed for found in response.namespaces)
        return response

    for memories in (ann, ben):
        with refused(CODE.PERMISSION_DENIED, "ROLE_REQUIRED"):
            await memories.ForgetSubject(pb.ForgetSubjectRequest(subject="dev|ann"))
    expected = {("crew", "unified"): (3, 1), ("crew", "entity"): (1, 0), ("other", "unified"): (1, 0)}
    for dry_run in (True, True, False):
        response = await forget(dry_run=dry_run)
        assert {
            (
                found.namespace.memory_id,
                record_pb2.MemoryKind.Name(found.namespace.kind).removeprefix("MEMORY_KIND_").lower(),
            ): (found.removed, found.kept)
            for found in response.namespaces
        } == expected
    assert await _left(admin, crew) == {"shared", "of ben"}
    assert await _left(admin, other) == await _left(admin, entities) == set()
    assert await _left(abroad, crew) == {"of ann abroad"}
    again = await forget()
    assert (again.removed, again.kept, list(again.namespaces)) == (0, 0, [])
    # What she has shared is the other's alone by now.
    response = await admin.ForgetSubject(pb.ForgetSubjectRequest(subject="dev|ben"))
    assert (response.removed, response.kept) == (2, 0)
    assert await _left(admin, crew) == set()


async def test_what_others_rewrite_is_still_found(everywhere: Harness) -> None:
    admin, ann, ben = (stub(everywhere.channel(bearer)) for bearer in (ADMIN, ANN, BEN))
    crew = place("crew")
    for record_id in ("read", "unread"):
        await _save(ann, crew, unified("Ann keeps the light.", record_id))
    rewritten = unified("Ann keeps the light and the boat.", "read")
    rewritten.expected_revision = 1
    [info] = (await admin.ListNamespaces(pb.ListNamespacesRequest())).namespaces
    # A Databricks index cannot compare, and takes no revision.
    can_compare = info.version != 0
    await _save(ben, crew, unified("Ben has the boat.", "unread"), *([rewritten] if can_compare else []))
    response = await admin.ForgetSubject(pb.ForgetSubjectRequest(subject="dev|ann"))
    assert (response.removed, response.kept) == ((0, 1) if can_compare else (1, 0))
    response = await admin.ForgetSubject(pb.ForgetSubjectRequest(subject="dev|ben"))
    assert (response.removed, response.kept) == ((2, 0) if can_compare else (1, 0)), "it names her no longer"
