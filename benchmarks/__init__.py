"""Measures what the course claims; see `python -m benchmarks --help`."""

import helpers  # noqa: F401  before any topic imports torch: how its threads wait
