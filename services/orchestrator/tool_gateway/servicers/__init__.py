"""The gateway at the edge."""
