"""Faults that break a training or damage a file, and that nothing is lost by them."""
