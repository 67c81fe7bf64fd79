"""Evaluate generated faces: classify their attributes, compare distributions, look for copies of training images."""
