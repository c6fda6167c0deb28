"""The worker host: claims segments, runs their crew processes, speaks to the other services and writes the rows."""
