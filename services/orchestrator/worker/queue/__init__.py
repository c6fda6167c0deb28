"""The queue of segments: hands them to hosts, limits them by group, and finds those whose host has died.

What runs, and how far it has come, is in the orchestrator's own rows. The only package that imports dbos.
"""
