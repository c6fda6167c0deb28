"""Sources that implement `coxswain.tools.v1.ToolProvider`."""
