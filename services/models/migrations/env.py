"""Alembic's entry for the models service's schema."""

from services.common.db.alembic_env import run_migrations
from services.models.tables import metadata

run_migrations(metadata)
