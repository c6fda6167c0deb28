"""Memory together with the real models service and its packaged embeddings."""

from pathlib import Path

from coxswain.memory.v1 import memory_pb2 as pb
from tests.integration.memory.support import place, stub, unified
from tests.support.harness import serve_services


async def test_memories_are_found_by_meaning_with_the_packaged_embeddings(tmp_path: Path) -> None:
    async with serve_services(tmp_path, "models", "memory") as harness:
        memories = stub(harness.channel())
        texts = {
            "fishing": "The harbour was full of trawlers that brought in herring and cod.",
            "finance": "Quarterly revenue rose although interest rates stayed high.",
            "garden": "Roses and tulips bloom along the path behind the house.",
        }
        records = [unified(text, name) for name, text in texts.items()]
        await memories.SaveRecords(pb.SaveRecordsRequest(namespace=place(), records=records))
        for question, expected in (
            ("boats that catch fish", "fishing"),
            ("money earned by the company", "finance"),
            ("flowers in the yard", "garden"),
        ):
            found = await memories.SearchRecords(pb.SearchRecordsRequest(namespace=place(), text=question, limit=1))
            assert [result.record.id for result in found.results] == [expected]
        (info,) = (await memories.ListNamespaces(pb.ListNamespacesRequest())).namespaces
        assert info.embedding_dimension == 256
