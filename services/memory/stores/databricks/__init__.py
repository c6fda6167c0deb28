"""Memories in Databricks Vector Search: direct-access indexes, one for each kind, shared by many groups and crews."""
