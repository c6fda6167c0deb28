"""Programs of the official SDK of A2A 0.3, and the packages that they need."""
