"""The deployable that calls tools: the only one of the orchestrator's processes that reaches the world."""
