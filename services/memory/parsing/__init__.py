"""Reading documents into parts: what runs in the helper process, and the service's end of it."""
