"""The release that the services of this checkout are of, and how a process tells it."""

RELEASE = "0.1.0"
"""The same number as the client's and the project's."""
METADATA_KEY = "coxswain-release"
"""Trailing metadata of answers to health checks."""
