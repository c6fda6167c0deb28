"""A2A at the edge: the protocol's own messages to domain and back."""
