"""Upstreams that speak OpenAI's HTTP interface."""
