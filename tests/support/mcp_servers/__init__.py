"""Real MCP servers of the official package, one for each era, and what starts them."""
