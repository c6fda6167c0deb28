"""Agents of other systems, called over A2A 1.0 or 0.3 by gRPC."""
