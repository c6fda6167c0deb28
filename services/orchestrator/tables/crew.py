"""Crews and their revisions."""

from sqlalchemy import Column, ForeignKey, Index, Integer, String, Table

from services.common.db.types import JsonDocument, UtcDateTime
from services.orchestrator.tables.columns import GROUP, ID, metadata, partial_index

crews = Table(
    "crews",
    metadata,
    Column("id", ID, primary_key=True),
    Column("group_id", GROUP, nullable=False),
    Column("name", String(256), nullable=False),
    Column("revision", Integer, nullable=False),  # the newest
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("deleted_at", UtcDateTime),
    Index("ix_crews_group_id_id", "group_id", "id"),
    # A name is free again once its crew is deleted.
    partial_index("crews", "deleted_at IS NULL", "group_id", "name", unique=True),
)

crew_revisions = Table(
    "crew_revisions",
    metadata,
    Column("crew_id", ID, ForeignKey("crews.id"), primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("document", JsonDocument, nullable=False),  # CrewSpec
    Column("subject", String(512), nullable=False),  # who made it
    Column("memory_id", String(128)),  # empty when memory is off; NULL in rows of releases that did not keep it
    Column("created_at", UtcDateTime, nullable=False),
    # Hashes of the tools of sources by their names; NULL as above.
    Column("tool_pins", JsonDocument),
)

# The sources whose tools the newest revision of a crew uses.
crew_tool_sources = Table(
    "crew_tool_sources",
    metadata,
    Column("group_id", GROUP, primary_key=True),
    Column("source_name", String(64), primary_key=True),
    Column("crew_id", ID, ForeignKey("crews.id", ondelete="CASCADE"), primary_key=True),
    Index("ix_crew_tool_sources_crew_id", "crew_id"),
)
