"""Access to the orchestrator's rows, behind the protocols of `protocols.py`."""
