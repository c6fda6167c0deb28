"""Which subjects a record is tied to."""

import json

from services.memory.domain.owners import SUBJECT
from services.memory.domain.records import Record


def is_of_subject_alone(record: Record, subject: str) -> bool:
    """Return whether a record that is tied to a subject is nobody else's.

    It is if the subject owns it or its metadata name the subject, whoever has saved it.
    """
    if record.owner == f"{SUBJECT}{subject}" or json.loads(record.metadata).get("subject") == subject:
        return True
    return set(record.subjects) <= {subject}
