"""The embedded default: rows with their vectors in the service's own database, searched exactly."""
