"""ChromaDB as the embedded default, for installations that want its directories."""
