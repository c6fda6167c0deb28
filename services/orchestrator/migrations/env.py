"""Alembic's entry for the orchestrator's schema."""

from services.common.db.alembic_env import run_migrations
from services.orchestrator.tables import metadata

run_migrations(metadata)
