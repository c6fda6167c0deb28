"""An entry point that needs more memory than it may have."""

TOOLS = len(bytearray(4 * 1024**3))
