"""The official client of A2A 0.3, and the packages that it needs."""
