"""Built-in tools that the host runs itself: they read and write what belongs to the execution and its group."""
