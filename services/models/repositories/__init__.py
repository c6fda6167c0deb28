"""Rows of each resource, over a connection that the use case has opened."""
