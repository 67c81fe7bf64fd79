"""Stable Diffusion 3: three text encoders, a transformer over text and picture, and straight paths."""
