"""Which subjects a record is tied to."""

import json
from dataclasses import dataclass
from typing import Final

from services.memory.domain.owners import SUBJECT
from services.memory.domain.records import Record

UNKNOWN: Final = ""
"""Stands among the subjects of a record for who has saved it without being noted: it is not those others' alone."""


@dataclass(frozen=True, slots=True)
class Ties:
    """Whom a record is tied to."""

    savers: tuple[str, ...]
    """The subjects that have saved it, or `UNKNOWN`."""
    owner: str
    """Whose it is, if it is private. See `owners`."""
    named: object
    """What its metadata name as `subject`."""

    @property
    def subjects(self) -> frozenset[str]:
        """All verified subjects that it is tied to."""
        subjects = set(self.savers) - {UNKNOWN}
        if self.owner.startswith(SUBJECT):
            subjects.add(self.owner.removeprefix(SUBJECT))
        if isinstance(self.named, str):
            subjects.add(self.named)
        return frozenset(subjects)

    def are_of_alone(self, subject: str) -> bool:
        """Return whether what is tied to a subject is nobody else's.

        It is if the subject owns it or its metadata name the subject, whoever has saved it.
        """
        return self.owner == f"{SUBJECT}{subject}" or self.named == subject or set(self.savers) <= {subject}


def ties_of(record: Record) -> Ties:
    """Return whom a record is tied to."""
    return Ties(record.subjects, record.owner, json.loads(record.metadata).get("subject"))
