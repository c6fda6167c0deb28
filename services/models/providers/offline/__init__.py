"""Models that need no network: packaged embeddings, and sentence extraction built on them."""
