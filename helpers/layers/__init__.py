"""Layers that two or more systems of the course share."""
