"""What the orchestrator is about. Import from the module of the noun."""
