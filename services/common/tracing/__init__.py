"""Traces by OpenTelemetry: off by default, and then free."""
