"""The failure to find a revision of a crew."""

from services.common.errors import FieldViolation, NotFound


def no_revision(field: str, crew: str, revision: int, newest: int) -> NotFound:
    """Return the failure of a request whose `field` names a revision that a crew does not have."""
    what = f'the crew "{crew}" has no revision {revision}; give one from 1 to {newest}, or 0 for the newest'
    return NotFound(
        f"{field}: {what}",
        metadata={"resource": f"revision {revision} of the crew", "id": crew},
        violations=[FieldViolation(field, what)],
    )
