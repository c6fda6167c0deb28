"""What the gateway does: calls and lists."""
