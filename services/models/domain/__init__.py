"""What the models service speaks of. Plain values: no wire, no rows."""
