"""What a process knows of changed access."""

import time
from datetime import timedelta

import pytest

from services.common.clock import utc_now
from services.common.identity.access_changes import EVERYBODY, MARGIN_SECONDS, AccessChange, AccessChanges
from services.common.identity.principal import CredentialKind, Principal, Role


def principal(issued_at: float, subject: str = "ann", group_id: str = "g") -> Principal:
    return Principal(
        subject=subject,
        group_id=group_id,
        role=Role.EDITOR,
        platform_admin=False,
        credential_kind=CredentialKind.DEV,
        session_id="",
        execution_id="",
        expires_at=utc_now() + timedelta(minutes=5),
        issued_at=issued_at,
    )


@pytest.mark.parametrize(
    ("change", "outdated", "revoked"),
    [
        (("ann", "g", 100.0, 0.0), True, False),
        (("ann", "g", 100.0, 100.0), True, True),
        (("ann", "", 100.0, 100.0), True, True),
        ((EVERYBODY, "g", 100.0, 100.0), True, True),
        ((EVERYBODY, "h", 100.0, 100.0), False, False),
        (("bob", "g", 100.0, 100.0), False, False),
        (("ann", "h", 100.0, 100.0), False, False),
        # The newest change is not the revocation.
        (("ann", "g", 200.0, 50.0), True, False),
    ],
)
def test_a_change_is_about_what_was_issued_before(
    change: tuple[str, str, float, float], outdated: bool, revoked: bool
) -> None:
    now = time.time()
    subject, group_id, changed, ended = change
    changes = AccessChanges()
    changes.learn([AccessChange(subject, group_id, now + changed, now + ended if ended else 0.0)])
    before = principal(now + 99)
    assert (changes.outdated(before), changes.revoked(before)) == (outdated, revoked)
    after = principal(now + 200 + MARGIN_SECONDS)
    assert (changes.outdated(after), changes.revoked(after)) == (False, False)


def test_what_was_issued_when_others_could_not_see_the_change_yet_may_not_know_of_it() -> None:
    now = time.time()
    changes = AccessChanges()
    changes.learn([AccessChange("ann", "g", now, now)])
    assert changes.revoked(principal(now + MARGIN_SECONDS / 2))
    assert changes.outdated(principal(now + MARGIN_SECONDS / 2))


def test_only_what_may_be_new_is_asked_for_and_what_is_known_stays() -> None:
    now = time.time()
    changes = AccessChanges()
    assert changes.since == 0
    assert changes.learn([AccessChange("ann", "g", now - 600, now - 600)])
    assert now - 700 < changes.since < now - 600
    assert changes.learn([AccessChange("bob", "g", now - 300)])
    assert not changes.learn([AccessChange("bob", "g", now - 300)])
    assert not changes.learn([])
    assert changes.revoked(principal(now - 700))
    assert changes.learn([AccessChange("bob", "g", now, now)])
    assert changes.revoked(principal(now - 1, "bob"))
    # One clock of auth's is ahead: what the others tell is asked for all the same.
    changes.learn([AccessChange("eve", "g", now + 10_000)])
    assert changes.since < now


def test_what_nothing_in_use_can_contradict_is_forgotten() -> None:
    now = time.time()
    changes = AccessChanges()
    changes.learn([AccessChange(f"old{number}", "g", now - 7200) for number in range(3)])
    assert changes.since == 0
    assert not changes.outdated(principal(now - 7300, "old1"))
