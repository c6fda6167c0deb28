"""The one socket between a worker host and a crew process: frames, and an end for each side."""
