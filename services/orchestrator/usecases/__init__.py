"""Use cases: one module for each proto service, and what they share."""
