"""Memory calls stay in the crew's namespace and page by themselves."""

import pytest

from coxswain.memory.v1 import memory_pb2 as pb
from coxswain.memory.v1 import record_pb2
from coxswain.orchestrator.worker.link_pb2 import CrewRequest
from services.common.errors import Aborted, FailedPrecondition, NotFound, Unavailable
from services.orchestrator.worker.host.fenced_write import Fenced
from services.orchestrator.worker.link.errors import TaskError
from tests.unit.worker.host.call_world import KNOWN, World, rpc_error

RECORD = record_pb2.Record(id="r", unified=record_pb2.UnifiedRecord(content="c"))


@pytest.mark.parametrize(
    "sent",
    [
        CrewRequest(save_records=pb.SaveRecordsRequest(records=[RECORD])),
        CrewRequest(search_records=pb.SearchRecordsRequest(text="ships", limit=3)),
        CrewRequest(get_record=pb.GetRecordRequest(id="r")),
        CrewRequest(list_records=pb.ListRecordsRequest(page_size=3)),
        CrewRequest(delete_records=pb.DeleteRecordsRequest(ids=["r"])),
        CrewRequest(count_records=pb.CountRecordsRequest()),
        CrewRequest(touch_records=pb.TouchRecordsRequest(ids=["r"])),
        CrewRequest(list_scopes=pb.ListScopesRequest(parent="/")),
        CrewRequest(get_scope=pb.GetScopeRequest(path="/")),
        CrewRequest(list_categories=pb.ListCategoriesRequest()),
    ],
    ids=lambda request: request.WhichOneof("request"),
)
async def test_every_request_lies_in_the_crews_namespace_whatever_it_says(world: World, sent: CrewRequest) -> None:
    name = sent.WhichOneof("request")
    assert name is not None
    getattr(sent, name).namespace.memory_id = "another crew"
    reply = getattr(pb, type(getattr(sent, name)).__name__.replace("Request", "Response"))()
    world.services.answers = [reply]
    answered = await world.calls.serve(sent)
    (asked,) = world.services.asked
    assert asked.namespace == pb.Namespace(memory_id="crew", kind=record_pb2.MEMORY_KIND_UNIFIED)
    assert answered.WhichOneof("reply") == (None if name == "touch_records" else name)


async def test_memories_are_saved_with_the_crews_embedding_model(world: World) -> None:
    world.services.answers = [pb.SaveRecordsResponse(ids=["r"])]
    await world.ask(save_records=pb.SaveRecordsRequest(records=[RECORD], embedding_model="another"))
    assert world.services.asked[0].embedding_model == "e"


async def test_memories_are_saved_and_searched_in_the_crews_name(world: World) -> None:
    world.services.answers = [pb.SaveRecordsResponse(ids=["r"]), pb.SearchRecordsResponse()]
    await world.ask(save_records=pb.SaveRecordsRequest(records=[RECORD], crew_name="another"))
    await world.ask(search_records=pb.SearchRecordsRequest(text="ships", limit=3, crew_name="another"))
    assert [asked.crew_name for asked in world.services.asked] == ["brief", "brief"]


async def test_a_search_goes_on_over_pages_up_to_its_limit(world: World) -> None:
    asked: list[tuple[int, str]] = []

    async def search(request: pb.SearchRecordsRequest) -> pb.SearchRecordsResponse:
        asked.append((request.limit, request.page_token))
        texts = (record_pb2.UnifiedRecord(content=f"{len(asked)} {n}") for n in range(2))
        found = [pb.SearchResult(record=record_pb2.Record(unified=text)) for text in texts]
        return pb.SearchRecordsResponse(results=found, next_page_token="next")

    world.services.SearchRecords = search  # type: ignore[attr-defined]
    reply = (await world.ask(search_records=pb.SearchRecordsRequest(text="ships", limit=4))).search_records
    assert len(reply.results) == 4
    assert asked == [(4, ""), (2, "next")]
    reply = (await world.ask(search_records=pb.SearchRecordsRequest(text="ships"))).search_records
    assert list(reply.results) == []


async def test_a_search_shows_no_text_twice_and_goes_on_to_fill_its_limit(world: World) -> None:
    asked: list[int] = []

    async def search(request: pb.SearchRecordsRequest) -> pb.SearchRecordsResponse:
        begin = sum(asked)
        asked.append(request.limit)
        # Of each text there are three, in scopes of their own.
        texts = [f"text {place // 3}" for place in range(begin, min(begin + request.limit, 30))]
        found = [record_pb2.Record(unified=record_pb2.UnifiedRecord(content=text)) for text in texts]
        results = [pb.SearchResult(record=record) for record in found]
        return pb.SearchRecordsResponse(results=results, next_page_token="more" if sum(asked) < 30 else "")

    world.services.SearchRecords = search  # type: ignore[attr-defined]
    reply = (await world.ask(search_records=pb.SearchRecordsRequest(text="ships", limit=4))).search_records
    assert [result.record.unified.content for result in reply.results] == [f"text {n}" for n in range(4)]
    assert asked == [4, 2 + 2 * 2]
    asked.clear()
    reply = (await world.ask(search_records=pb.SearchRecordsRequest(text="ships", limit=50))).search_records
    assert len(reply.results) == 10
    # Records of knowledge are documents in their own right.
    asked.clear()
    request = pb.SearchRecordsRequest(text="ships", limit=4, namespace=KNOWN)
    assert len((await world.ask(search_knowledge=request)).search_knowledge.results) == 4
    assert asked == [4]


async def test_pages_of_a_search_that_chooses_are_bounded(world: World) -> None:
    record = record_pb2.Record(unified=record_pb2.UnifiedRecord(content="same"))
    limits: list[int] = []

    async def search(request: pb.SearchRecordsRequest) -> pb.SearchRecordsResponse:
        limits.append(request.limit)
        results = [] if len(limits) > 1 else [pb.SearchResult(record=record)] * request.limit
        return pb.SearchRecordsResponse(results=results, next_page_token="" if len(limits) > 1 else "more")

    world.services.SearchRecords = search  # type: ignore[attr-defined]
    await world.ask(search_records=pb.SearchRecordsRequest(text="ships", limit=150, diversity=0.5))
    assert limits == [150, 200]


async def test_memories_replace_near_copies_as_the_crew_says(world: World) -> None:
    world.services.answers = [pb.SaveRecordsResponse(ids=["r"])]
    await world.ask(save_records=pb.SaveRecordsRequest(records=[RECORD], near_copy_similarity=0.1))
    assert round(world.services.asked[0].near_copy_similarity, 4) == 0.9375


async def test_parts_of_a_long_result_replace_nothing(world: World) -> None:
    part = record_pb2.Record(unified=record_pb2.UnifiedRecord(content="c"))
    part.metadata.update({"part": 1, "parts": 2})
    world.services.answers = [pb.SaveRecordsResponse(ids=["r"])]
    await world.ask(save_records=pb.SaveRecordsRequest(records=[part]))
    assert world.services.asked[0].near_copy_similarity == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [("???", False), ("\U0001f600 --", False), ("\u0301", False), ("_", True), ("\u2122", True), ("船", True)],
)
async def test_a_search_by_words_for_none_finds_nothing(world: World, text: str, words: bool) -> None:
    found = pb.SearchRecordsResponse(results=[pb.SearchResult(record=RECORD)])
    world.services.answers = [found, found]
    by_words = pb.SearchRecordsRequest(text=text, limit=1, mode=pb.SEARCH_MODE_TEXT)
    assert len((await world.ask(search_records=by_words)).search_records.results) == words
    # Vectors find something all the same.
    by_both = pb.SearchRecordsRequest(text=text, limit=1, mode=pb.SEARCH_MODE_HYBRID)
    assert (await world.ask(search_records=by_both)).search_records.results
    assert len(world.services.asked) == 1 + words


async def test_a_backend_that_cannot_compare_revisions_is_asked_without(world: World) -> None:
    expecting = record_pb2.Record()
    expecting.CopyFrom(RECORD)
    expecting.expected_revision = 3
    refusals = [FailedPrecondition("no", reason=reason) for reason in ("INVALID_FIELD", "STORE_FAILED")]
    seen: list[bool] = []

    async def save(request: pb.SaveRecordsRequest) -> pb.SaveRecordsResponse:
        seen.append(request.records[0].HasField("expected_revision"))
        if seen[-1]:
            raise rpc_error(refusals.pop(0))
        return pb.SaveRecordsResponse(ids=["r"])

    world.services.SaveRecords = save  # type: ignore[attr-defined]
    assert (await world.ask(save_records=pb.SaveRecordsRequest(records=[expecting]))).save_records.ids == ["r"]
    with pytest.raises(TaskError, match="no"):
        await world.ask(save_records=pb.SaveRecordsRequest(records=[expecting]))
    assert seen == [True, False, True]


async def test_who_finds_a_memory_changed_may_go_on(world: World) -> None:
    world.services.answers = [rpc_error(Aborted("changed", reason="REVISION_MISMATCH"))]
    with pytest.raises(TaskError) as refusal:
        await world.ask(save_records=pb.SaveRecordsRequest(records=[RECORD]))
    assert (refusal.value.reason, refusal.value.fatal) == ("REVISION_MISMATCH", False)


async def test_a_memory_that_is_not_there_is_none_and_a_touch_may_fail(world: World) -> None:
    world.services.answers = [rpc_error(NotFound("gone")), rpc_error(FailedPrecondition("no", reason="STORE_FAILED"))]
    assert not (await world.ask(get_record=pb.GetRecordRequest(id="r"))).get_record.HasField("record")
    await world.ask(touch_records=pb.TouchRecordsRequest(ids=["r"]))


async def test_a_listing_goes_on_over_pages(world: World) -> None:
    asked: list[tuple[int, str]] = []
    pages = [
        pb.ListRecordsResponse(records=[RECORD] * 2, next_page_token="next"),
        pb.ListRecordsResponse(records=[RECORD]),
    ]

    async def page(request: pb.ListRecordsRequest) -> pb.ListRecordsResponse:
        asked.append((request.page_size, request.page_token))
        return pages.pop(0)

    world.services.ListRecords = page  # type: ignore[attr-defined]
    reply = (await world.ask(list_records=pb.ListRecordsRequest(page_size=2500))).list_records
    assert len(reply.records) == 3
    assert asked == [(1000, ""), (1000, "next")]


async def test_knowledge_is_searched_where_the_crew_names_it_and_nowhere_else(world: World) -> None:
    found = pb.SearchRecordsResponse(results=[pb.SearchResult(record=RECORD, similarity=0.5)])
    world.services.answers = [found]
    asked = pb.SearchRecordsRequest(namespace=KNOWN, text="ships", limit=3)
    assert (await world.ask(search_knowledge=asked)).search_knowledge == found
    (searched,) = world.services.asked
    assert (searched.namespace, searched.crew_name) == (KNOWN, "brief")
    for other in (
        pb.Namespace(memory_id="another crew", kind=record_pb2.MEMORY_KIND_UNIFIED),
        pb.Namespace(memory_id=KNOWN.memory_id, kind=record_pb2.MEMORY_KIND_LONG_TERM),
        pb.Namespace(),
    ):
        with pytest.raises(TaskError) as refused:
            await world.ask(search_knowledge=pb.SearchRecordsRequest(namespace=other, text="ships", limit=3))
        assert (refused.value.reason, refused.value.fatal) == ("NOT_FOUND", True)
    assert len(world.services.asked) == 1


async def test_a_memory_service_that_is_absent_is_asked_for_knowledge_again(world: World) -> None:
    world.services.answers = [rpc_error(Unavailable("gone")), pb.SearchRecordsResponse()]
    asked = pb.SearchRecordsRequest(namespace=KNOWN, text="ships", limit=3)
    assert not (await world.ask(search_knowledge=asked)).search_knowledge.results
    assert len(world.services.asked) == 2


@pytest.mark.parametrize(
    "sent",
    [
        CrewRequest(save_records=pb.SaveRecordsRequest(records=[RECORD])),
        CrewRequest(delete_records=pb.DeleteRecordsRequest(ids=["r"])),
    ],
    ids=lambda request: request.WhichOneof("request"),
)
async def test_a_host_that_has_lost_the_execution_changes_no_memory(world: World, sent: CrewRequest) -> None:
    world.fenced = True
    with pytest.raises(Fenced):
        await world.calls.serve(sent)
    assert world.services.asked == []


async def test_a_call_that_waits_for_the_service_ends_with_the_claim(world: World) -> None:
    asked = 0

    async def save(_request: pb.SaveRecordsRequest) -> pb.SaveRecordsResponse:
        nonlocal asked
        asked += 1
        world.fenced = True
        raise rpc_error(None)

    world.services.SaveRecords = save  # type: ignore[attr-defined]
    with pytest.raises(Fenced):
        await world.ask(save_records=pb.SaveRecordsRequest(records=[RECORD]))
    assert asked == 1
