"""Reading what comes from outside in helper processes with bounded time and memory."""
