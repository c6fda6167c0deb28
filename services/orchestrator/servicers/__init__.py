"""The gRPC edge: messages to domain, use case, domain to messages."""
