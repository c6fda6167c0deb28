"""The stores that `benchmarks.memory_search` compares, each with the same data and the same questions."""
