"""Crews and their executions: the API, and beside it the workers that run crews."""
