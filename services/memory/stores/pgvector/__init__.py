"""Memories in PostgreSQL databases of groups, found by pgvector."""
