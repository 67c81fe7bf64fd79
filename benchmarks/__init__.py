"""Measures what the course claims; see `python -m benchmarks --help`."""
