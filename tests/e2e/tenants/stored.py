"""The rows of an installation's databases, to see that nothing of a group has changed."""

from collections import Counter
from collections.abc import Mapping

from sqlalchemy import Engine, create_engine, make_url, text

from tests.support.installation import SERVICES, Installation

Rows = Mapping[str, Counter[str]]
"""By table, its rows as text."""


def engine_of(installation: Installation, service: str) -> Engine:
    """Open a service's database."""
    if not installation.database_url:
        return create_engine(f"sqlite:///{installation.data_dir / service}.db")
    url = make_url(installation.database_url).set(drivername="postgresql+psycopg")
    return create_engine(url, connect_args={"options": f"-csearch_path={service}"})


_NOBODYS = ("sqlite_sequence", "record_words_fts", "worker_leases")
"""Beginnings of the names of tables that are kept for all groups together."""
_PASSING = " llm_chunk "
"""Stands in rows that are removed some time after they have been told."""


def rows_of(installation: Installation) -> Rows:
    """Return every row of every table of the services."""
    rows: dict[str, Counter[str]] = {}
    for service in SERVICES:
        engine = engine_of(installation, service)
        try:
            with engine.connect() as connection:
                if connection.dialect.name == "sqlite":
                    named = "SELECT name FROM sqlite_master WHERE type = 'table'"
                else:
                    named = f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{service}'"
                for table in connection.scalars(text(named)).all():
                    if table.startswith(_NOBODYS):
                        continue
                    found = (
                        " ".join(map(_as_text, row)) for row in connection.execute(text(f'SELECT * FROM "{table}"'))
                    )
                    rows[f"{service}.{table}"] = Counter(row for row in found if _PASSING not in row)
        finally:
            engine.dispose()
    return rows


def is_at_rest(installation: Installation) -> bool:
    """Return whether nothing that has ended still has its grant, which is taken back a little later."""
    ended = "SELECT id FROM executions WHERE ended_at IS NOT NULL AND grant_open"
    query = f"{ended} UNION ALL SELECT id FROM batches WHERE grant_open"
    engine = engine_of(installation, "orchestrator")
    try:
        with engine.connect() as connection:
            return connection.scalar(text(query)) is None
    finally:
        engine.dispose()


def changed(before: Rows, after: Rows) -> dict[str, list[str]]:
    """Return the rows that are no longer as they were, by table."""
    gone = {table: list((rows - after.get(table, Counter())).elements()) for table, rows in before.items()}
    return {table: rows for table, rows in gone.items() if rows}


def _as_text(value: object) -> str:
    return bytes(value).hex() if isinstance(value, bytes | memoryview) else str(value)
