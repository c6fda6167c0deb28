"""Alembic's entry to the history of memory's database."""

from services.common.db.alembic_env import run_migrations
from services.memory.tables import metadata

run_migrations(metadata)
