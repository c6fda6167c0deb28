"""A2A 0.3 at the edge: its messages become those of 1.0 and back, and everything else is the same."""
