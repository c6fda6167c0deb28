"""Alembic's entry to the history of auth's database."""

from services.auth.tables import metadata
from services.common.db.alembic_env import run_migrations

run_migrations(metadata)
