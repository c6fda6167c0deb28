"""JSON schemas that groups and sources write: whether they can be used, and what does not follow them."""
