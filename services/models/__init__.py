"""Model configuration, model calls and their usage."""
