"""The tools that the gateway itself has; one module each."""
