"""What is kept of revoked access, for how long, and how much of it."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from services.auth import tables
from services.auth.domain import VerifiedIdentity
from services.auth.identity.sessions import SessionStore
from services.auth.keys.ring import KeyRing
from services.auth.keys.vault import Vault
from services.auth.usecases.access import Access
from services.common.clock import utc_now
from services.common.db.database import Database
from services.common.errors import ResourceExhausted
from services.common.identity.authenticator import Credential
from services.common.identity.principal import CredentialKind
from tests.support.service_tables import make_service_tables

ANN = "https://example.com|ann"
A_DAY, A_YEAR = timedelta(days=1), timedelta(days=365)


@pytest.fixture
async def database(tmp_path: Path, database_url: str) -> AsyncIterator[Database]:
    url = database_url if database_url.startswith("postgresql") else f"sqlite:///{tmp_path / 'auth.db'}"
    make_service_tables("auth", url)
    opened = Database(url, "auth")
    yield opened
    await opened.close()


@pytest.fixture
def access(database: Database) -> Access:
    return Access(database, contradicted=timedelta(minutes=15), retention=2 * A_YEAR, most_revocations=2)


def identity() -> VerifiedIdentity:
    return VerifiedIdentity(ANN, CredentialKind.USER, utc_now() + timedelta(hours=1))


async def pass_by(database: Database) -> None:
    """Let all sessions expire."""
    async with database.write() as connection:
        await connection.execute(sa.update(tables.credential_sessions).values(expires_at=utc_now() - A_DAY))


async def test_sessions_of_before_a_revocation_stay_without_their_token_and_others_go(
    database: Database, access: Access
) -> None:
    vault = Vault(database, KeyRing([("k1", b"1" * 32)]))
    await vault.start()
    before, after = Credential("Bearer an-old-token", ""), Credential("Bearer a-new-token", "")
    first = await SessionStore(database, vault, most=100).open(before, identity())
    await access.revoke(ANN, "some-group")
    second = await SessionStore(database, vault, most=100).open(after, identity())
    await pass_by(database)
    assert await SessionStore(database, vault, most=100).clean() == 1
    async with database.read() as connection:
        [kept] = await connection.execute(sa.select(tables.credential_sessions))
    assert (kept.id, kept.sealed, kept.key_id) == (first.id, None, None)

    # Other groups did not revoke it: the user's token serves there again, as old as it was.
    sessions = SessionStore(database, vault, most=100)
    assert await sessions.open(before, identity()) == first
    assert (await sessions.open(after, identity())).id != second.id
    session = await sessions.get(first.id)
    assert session is not None
    assert sessions.token(session) == "an-old-token"

    await access.revoke(ANN, "")
    sessions = SessionStore(database, vault, most=100)
    await sessions.open(before, identity())
    session = await sessions.get(first.id)
    assert session is not None
    assert sessions.token(session) == ""


async def test_changes_are_kept_as_long_as_something_may_contradict_them(database: Database, access: Access) -> None:
    now = utc_now()
    rows: dict[tuple[str, str], tuple[datetime, datetime | None, bool]] = {
        ("dev|removed-just-now", "sales"): (now, None, True),
        ("dev|removed", "sales"): (now - A_DAY, None, False),
        ("dev|revoked", "sales"): (now - A_YEAR, now - A_YEAR, True),
        ("dev|revoked", ""): (now - A_YEAR, now - A_YEAR, True),
        ("dev|revoked-long-ago", "sales"): (now - 3 * A_YEAR, now - 3 * A_YEAR, False),
        ("token|sales/ended-just-now", ""): (now, now, True),
        # The token itself is gone.
        ("token|sales/ended", ""): (now - A_DAY, now - A_DAY, False),
        ("token|sales/refused-elsewhere", "legal"): (now - A_DAY, now - A_DAY, True),
    }
    async with database.write() as connection:
        for (subject, group_id), (changed_at, revoked_at, _) in rows.items():
            row = {"subject": subject, "group_id": group_id, "changed_at": changed_at, "revoked_at": revoked_at}
            await connection.execute(sa.insert(tables.access_changes).values(row))
    stays = {key for key, (_, _, kept) in rows.items() if kept}
    assert await access.clean() == len(rows) - len(stays)
    async with database.read() as connection:
        left = await connection.execute(sa.select(tables.access_changes.c.subject, tables.access_changes.c.group_id))
        assert {(row.subject, row.group_id) for row in left} == stays


async def test_a_group_revokes_so_many_subjects(access: Access) -> None:
    for subject in ("dev|one", "dev|two"):
        await access.revoke(subject, "sales")
    with pytest.raises(ResourceExhausted) as refusal:
        await access.revoke("dev|three", "sales")
    assert refusal.value.metadata == {"quota": "revocations", "limit": "2", "used": "2"}
    await access.revoke("dev|one", "sales")
    await access.revoke("dev|three", "legal")
    await access.revoke("dev|three", "")
