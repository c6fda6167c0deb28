"""What the memory service does, one module for each of its gRPC services."""
