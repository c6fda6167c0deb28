"""Access to the orchestrator's rows, within a transaction that use cases open."""
