"""Measurements, as ratios against floors and peers on the same machine: `python -m benchmarks`."""
