"""Memory without a crew: saves notes, finds them by meaning and by filter, changes one, and removes them.

Use: python notes.py
"""

from coxswain.client import Aborted, Client
from coxswain.memory.v1.memory_pb2 import (
    SEARCH_MODE_HYBRID,
    DeleteRecordsRequest,
    Namespace,
    RecordFilter,
    SaveRecordsRequest,
    SearchRecordsRequest,
)
from coxswain.memory.v1.record_pb2 import Record, UnifiedRecord

# A name of your own choice: crews have others, so that nothing is mixed up.
NOTES = Namespace(memory_id="notes-of-the-harbour")
TEXTS = {
    "depth": ("The entrance of the harbour is four metres deep at low tide.", ["water"]),
    "office": ("The harbour master's office opens at eight, on Sundays at ten.", ["people"]),
    "order-4711": ("Berth 12 is reserved for the schooner of order 4711.", ["berths"]),
}


def note(key: str, text: str, categories: list[str]) -> Record:
    """Return a note under an id of its own: saved again, it replaces the one before."""
    return Record(id=key, unified=UnifiedRecord(content=text, categories=categories, source="notes.py"))


def find(client: Client, text: str, categories: list[str] | None = None) -> str:
    """Return the note that fits a text best, looked for by meaning and by words."""
    request = SearchRecordsRequest(
        namespace=NOTES,
        text=text,
        mode=SEARCH_MODE_HYBRID,
        filter=RecordFilter(categories=categories or []),
        limit=1,
    )
    results = client.memory.SearchRecords(request).results
    return results[0].record.unified.content if results else "nothing"


def main() -> None:
    """Show each call once."""
    with Client() as client:
        records = [note(key, *content) for key, content in TEXTS.items()]
        saved = client.memory.SaveRecords(SaveRecordsRequest(namespace=NOTES, records=records)).records

        print(find(client, "how much water is under the keel?"))
        print(find(client, "4711"))
        print(find(client, "how much water is under the keel?", ["people"]))

        changed = note("depth", "The entrance is five metres deep since it was dredged.", ["water"])
        changed.expected_revision = saved[0].revision
        change = SaveRecordsRequest(namespace=NOTES, records=[changed])
        client.memory.SaveRecords(change)
        print(find(client, "how much water is under the keel?"))
        try:
            client.memory.SaveRecords(change)
        except Aborted as error:
            print(f"somebody was faster: {error.reason}")

        deleted = client.memory.DeleteRecords(DeleteRecordsRequest(namespace=NOTES, ids=list(TEXTS))).deleted
        print(f"{deleted} removed")


if __name__ == "__main__":
    main()
