"""Connections to peers over gRPC, of whichever service."""
