"""Exports that go on where a connection was lost."""

from coxswain.client.exports import ExportCursor
from coxswain.memory.v1.memory_pb2 import ExportOrigin, ExportRecordsRequest, ExportRecordsResponse, Namespace
from coxswain.memory.v1.record_pb2 import Record

ORIGIN = ExportRecordsResponse(origin=ExportOrigin(record_count=2))


def _records(token: str) -> ExportRecordsResponse:
    return ExportRecordsResponse(records=[Record(id=token)], next_page_token=token)


def test_a_new_connection_goes_on_after_the_last_records_and_begins_nothing_anew() -> None:
    given = ExportRecordsRequest(namespace=Namespace(memory_id="m"), include_embeddings=True)
    cursor = ExportCursor(given, max_outage=1, renewable=False)
    assert cursor.request() == given
    assert cursor.accept(ORIGIN)
    assert cursor.accept(_records("a"))
    request = cursor.request()
    assert (request.page_token, request.namespace, request.include_embeddings) == ("a", given.namespace, True)
    assert not cursor.accept(ORIGIN)
    assert cursor.accept(_records("b"))
    assert cursor.request().page_token == "b"
    assert not given.page_token, "the caller's own request is not changed"


def test_a_connection_that_was_lost_before_any_record_begins_again() -> None:
    cursor = ExportCursor(ExportRecordsRequest(), max_outage=1, renewable=False)
    assert cursor.accept(ORIGIN)
    assert not cursor.request().page_token
    assert not cursor.accept(ORIGIN)
    assert cursor.accept(_records("a"))
