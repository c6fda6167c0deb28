"""What speaks to each kind of source."""
