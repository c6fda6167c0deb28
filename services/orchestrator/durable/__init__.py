"""Durable work: schedules segments of executions, limits them by group, and finds those whose host has died.

What runs, and how far it has come, is in the orchestrator's own rows. Nothing outside this package knows which engine
is used here.
"""
