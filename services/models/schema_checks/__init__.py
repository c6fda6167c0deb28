"""Checks of answers against the JSON schemas of callers."""
