"""Rules that hold in a workspace as elsewhere: whose a private record is, and which list a page belongs to."""

import grpc

from coxswain.memory.v1 import vector_index_pb2 as index_pb
from services.memory.domain.filters import EVERYTHING
from services.memory.stores.databricks.listed_positions import ListedPositions
from tests.integration.auth.support import refused
from tests.integration.memory.databricks_parts import (
    INDEX,
    KEY,
    emulator,
    open_repository,
    open_store,
    unified_records,
    workspace_client,
)
from tests.integration.memory.databricks_support import World, index_name, indexes_stub, make_indexes, use_workspace
from tests.integration.memory.store_model import NOW
from tests.integration.memory.support import DIMENSION, unified
from tests.support.text_vectors import embed_text

ADMIN = "dev:root:sales=admin"
BOB, ED = "dev:bob:sales=editor", "dev:ed:sales=editor"


async def test_a_private_record_is_not_replaced_through_its_index(world: World) -> None:
    make_indexes(world.vectors)
    await use_workspace(world.harness, world.url, ADMIN)
    bob, ed = (indexes_stub(world.harness, bearer) for bearer in (BOB, ED))

    def upsert(content: str, record_id: str, **fields: object) -> index_pb.UpsertIndexRecordsRequest:
        record = unified(content, record_id, **fields)
        record.embedding.extend(embed_text(content, DIMENSION))
        return index_pb.UpsertIndexRecordsRequest(index=index_name(), memory_id="crew", records=[record])

    await bob.UpsertIndexRecords(upsert("secret", "s", private=True))
    for request in (upsert("hijacked", "s"), upsert("hijacked", "s", private=True)):
        with refused(grpc.StatusCode.PERMISSION_DENIED, "OWNER_REQUIRED") as refusal:
            await ed.UpsertIndexRecords(request)
        assert refusal.metadata["id"] == "s"
    assert [row["content"] for row in world.vectors.rows(index_name())] == ["secret"]
    # Its owner changes it, and editors write for its owner, by name.
    await bob.UpsertIndexRecords(upsert("changed", "s", private=True))
    await ed.UpsertIndexRecords(upsert("restored", "s", private=True, owner="subject:dev|bob"))
    assert [row["content"] for row in world.vectors.rows(index_name())] == ["restored"]
    ended = upsert("ended", "e", private=True)
    ended.records[0].expire_time.FromJsonString("2001-01-01T00:00:00Z")
    await bob.UpsertIndexRecords(ended)
    await ed.UpsertIndexRecords(upsert("new", "e"))


async def test_the_pages_of_a_list_are_those_of_its_own_workspace() -> None:
    listed = ListedPositions(60)
    with emulator() as here, emulator() as there:
        async with workspace_client() as client:
            for vectors, prefix in ((here, "h"), (there, "t")):
                await open_repository(client, vectors.url).upsert(INDEX, KEY, unified_records(9, prefix), "m")
            for vectors, prefix in ((here, "h"), (there, "t")):
                store = open_store(client, vectors.url, listed=listed)
                found, after = list[str](), None
                while True:
                    page = await store.page(KEY, EVERYTHING, 4, after, NOW, embeddings=False)
                    found += [record.id for record in page.records]
                    after = page.last
                    if not page.more:
                        break
                assert sorted(found) == [f"{prefix}{n}" for n in range(9)]
