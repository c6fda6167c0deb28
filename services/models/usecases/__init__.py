"""What the service does: one module for each proto service, and what they share."""
