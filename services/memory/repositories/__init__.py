"""Rows that are not memories themselves."""
