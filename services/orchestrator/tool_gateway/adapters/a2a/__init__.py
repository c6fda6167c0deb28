"""Agents of other systems, called over A2A 1.0 by gRPC."""
