"""Draws the architecture diagrams and the images of the README."""
